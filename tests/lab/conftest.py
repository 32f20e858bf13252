"""The NVMe tests' bench, and rules by their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from drivebay.lab import NVME, NvmeFaults, parse_rule
from tests.fixtures import engine_without_threads as engine
from tests.fixtures import no_bug_is_logged
from tests.nvme.conftest import make_bench
from tests.nvme.support import Bench

__all__ = ["MakeFaults", "engine", "make_bench", "no_bug_is_logged"]  # fixtures


MakeFaults = Callable[..., NvmeFaults]


@pytest.fixture
def faulty() -> Iterator[MakeFaults]:
    """Puts rules on a bench's controller."""
    made: list[NvmeFaults] = []

    def make(bench: Bench, *texts: str) -> NvmeFaults:
        rules = [parse_rule(text, NVME) for text in texts]
        made.append(NvmeFaults(bench.controller, rules))
        return made[-1]

    yield make
    for faults in made:
        faults.close()
