"""An engine without threads, and no bug in the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from drivebay.platform.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Without threads: what blocks, blocks here."""
    engine = Engine(workers=0)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An error in the log is a bug of ours."""
    yield
    bugs = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not bugs, bugs
