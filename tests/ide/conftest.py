"""Benches, ready to be taken by a test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from drivebay.ata.device import Device
from drivebay.platform.engine import Engine

from .support import Bench, DiskRig, Place

MakeBench = Callable[..., Bench]


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Without threads: what blocks, blocks here."""
    engine = Engine(workers=0)
    yield engine
    engine.close()


@pytest.fixture
def make_bench(engine: Engine) -> MakeBench:
    """Makes a bench that firmware has enabled; the arguments are `Bench`'s but for the engine."""

    def make(drives: Mapping[Place, Device] | None = None, **options: Any) -> Bench:
        bench = Bench(engine, drives, **options)
        bench.enable()
        return bench

    return make


@pytest.fixture(params=[False, True], ids=["interrupts", "polled"])
def rig(request: pytest.FixtureRequest, engine: Engine) -> Iterator[DiskRig]:
    """A disk, whose driver waits for interrupts or polls."""
    rig = DiskRig(engine, polled=request.param)
    yield rig
    rig.ram.close()


@pytest.fixture(autouse=True)
def no_bug_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """An error in the log is a bug of ours; a test that wants one clears the log."""
    yield
    bugs = [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.ERROR]
    assert not bugs, bugs
