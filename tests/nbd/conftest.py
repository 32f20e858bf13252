from __future__ import annotations

from tests.fixtures import engine, no_bug_is_logged

__all__ = ["engine", "no_bug_is_logged"]
