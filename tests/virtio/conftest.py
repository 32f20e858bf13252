"""The bench, ready to be taken by a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from tests.fixtures import engine, no_bug_is_logged

from .bench import RAM_SIZE, RAM_START, RINGS, Bench, MakeBench, on_mmio, on_pci

__all__ = ["engine", "no_bug_is_logged"]  # fixtures


@pytest.fixture(params=RINGS.values(), ids=list(RINGS))
def features(request: pytest.FixtureRequest) -> int:
    """What the driver wants, once for each kind of ring."""
    return int(request.param)


@pytest.fixture
def transport() -> str:
    """What is between device and driver."""
    return "mmio"


@pytest.fixture
def bench(engine: Engine, transport: str) -> Iterator[MakeBench]:
    """Makes a bench for a disk; the arguments of `BlockDevice` may be given."""
    disks: list[Disk] = []

    def make(
        disk: Disk | None = None, memory: GuestMemory | None = None, **options: object
    ) -> Bench:
        disk = disk or RamDisk(1 << 20)
        disks.append(disk)
        memory = memory or GuestMemory.of_size(RAM_SIZE, RAM_START)
        device = BlockDevice(disk, engine, **options)  # type: ignore[arg-type]
        if transport == "mmio":
            return on_mmio(engine, disk, memory, device)
        return on_pci(engine, disk, memory, device, messages="messages" in transport)

    yield make
    for disk in disks:
        disk.close()
