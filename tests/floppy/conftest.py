"""Benches, ready to be taken by a test."""

from __future__ import annotations

import pytest

from drivebay.platform.engine import Engine
from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged

from .support import Bench

__all__ = ["engine", "no_bug_is_logged"]  # fixtures


@pytest.fixture
def bench(engine: Engine) -> Bench:
    """A 1.44M disk of noise in drive A, an empty drive B, and no others."""
    return Bench(engine)
