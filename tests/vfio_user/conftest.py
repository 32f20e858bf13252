"""A served function, ready to be attacked by a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.platform.engine import Engine
from tests.fixtures import engine

from .support import Bay, make_bay

__all__ = ["engine"]  # fixtures


@pytest.fixture
def bay(engine: Engine, tmp_path: Path) -> Iterator[Bay]:
    bay = make_bay(engine, tmp_path)
    yield bay
    bay.server.close()
    bay.function.shared.close()


@pytest.fixture(autouse=True)
def no_bug_is_logged(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> Iterator[None]:
    """An error in the log is a bug of ours, but where a test makes one."""
    yield
    if "bug" in request.node.name:
        return
    bugs = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not bugs, bugs
