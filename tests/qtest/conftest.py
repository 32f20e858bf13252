"""The bench, ready to be taken by a test."""

from __future__ import annotations

import pytest

from drivebay.platform.engine import Engine
from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged

from .support import Bench

__all__ = ["engine", "no_bug_is_logged"]  # fixtures


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


@pytest.fixture
def monitor(bench: Bench) -> Bench:
    """A bench whose QMP is ready for commands."""
    bench.qmp_tape.take()
    assert bench.execute("qmp_capabilities") == [{"return": {}}]
    return bench
