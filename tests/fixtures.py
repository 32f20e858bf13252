"""Fixtures that several folders of tests take into their conftest."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from drivebay.platform.engine import Engine

__all__ = ["engine", "engine_without_threads", "no_bug_is_logged"]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def engine_without_threads() -> Iterator[Engine]:
    """What blocks, blocks here."""
    engine = Engine(workers=0)
    yield engine
    engine.close()


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An error in the log is a bug of ours; a test that wants one clears the log."""
    yield
    bugs = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not bugs, bugs
