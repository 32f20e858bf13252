"""A guest with one virtio block device at xv6's address, and a driver for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.virtio_blk import VirtioBlk
from drivebay.drivers.virtio_ring import Arena
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace

BASE = 0x10001000  # where xv6 looks for it
RAM_START, RAM_SIZE = 0x80000000, 16 << 20


@dataclass
class Bench:
    """One device on the bench: everything a test may want to touch."""

    engine: Engine
    disk: Disk
    memory: GuestMemory
    device: BlockDevice
    transport: MmioTransport
    line: Line
    space: MmioSpace
    levels: list[bool] = field(default_factory=list)

    def driver(self, **options: object) -> VirtioBlk:
        arena = Arena(self.memory, RAM_START, RAM_SIZE)
        return VirtioBlk(self.space, BASE, arena, poll=lambda: self.engine.turn(0.01), **options)  # type: ignore[arg-type]


MakeBench = Callable[..., Bench]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()


@pytest.fixture
def bench(engine: Engine) -> MakeBench:
    """Makes a bench for a disk; the arguments of `BlockDevice` may be given."""

    def make(disk: Disk | None = None, memory: GuestMemory | None = None, **options: object) -> Bench:
        disk = disk or RamDisk(1 << 20)
        memory = memory or GuestMemory.of_size(RAM_SIZE, RAM_START)
        device = BlockDevice(disk, engine, **options)  # type: ignore[arg-type]
        levels: list[bool] = []
        line = Line(levels.append)
        transport = MmioTransport(device, memory, line)
        space = MmioSpace()
        space.map(BASE, transport)
        return Bench(engine, disk, memory, device, transport, line, space, levels)

    return make
