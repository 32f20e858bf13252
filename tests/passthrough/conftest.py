"""An engine without threads, and no bug in the log."""

from __future__ import annotations

from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged

__all__ = ["engine", "no_bug_is_logged"]  # fixtures
