"""Benches, ready to be taken by a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine
from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged

from .support import Bench

__all__ = ["engine", "no_bug_is_logged"]  # fixtures

MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(engine: Engine) -> MakeBench:
    """Makes a bench that firmware has enabled; the arguments are `Bench`'s but for the engine."""

    def make(disks: Mapping[int, Disk] | None = None, **options: Any) -> Bench:
        bench = Bench(engine, disks, **options)
        bench.enable()
        return bench

    return make
