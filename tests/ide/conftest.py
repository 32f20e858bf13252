"""Benches, ready to be taken by a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from drivebay.ata.device import Device
from drivebay.platform.engine import Engine
from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged

from .support import Bench, DiskRig, Place

__all__ = ["engine", "no_bug_is_logged"]  # fixtures

MakeBench = Callable[..., Bench]


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
