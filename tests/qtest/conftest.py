"""The bench, ready to be taken by a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from drivebay.platform.engine import Engine

from .support import Bench


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(workers=0)
    yield engine
    engine.close()


@pytest.fixture
def bench(engine: Engine) -> Bench:
    return Bench(engine)


@pytest.fixture
def monitor(bench: Bench) -> Bench:
    """A bench whose QMP is ready for commands."""
    bench.qmp_tape.take()
    assert bench.execute("qmp_capabilities") == [{"return": {}}]
    return bench


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An error in the log is a bug of ours; a test that wants one clears the log."""
    yield
    bugs = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not bugs, bugs
