"""A guest with one virtio SCSI host: a disk that the test holds, another, and a DVD drive."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_scsi import Answer, VirtioScsi
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.virtio import DeviceStatus
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.target import Target
from drivebay.testing import PuppetDisk

from .bench import BASE, RAM_SIZE, RAM_START

OK, OVERRUN, ABORTED, BAD_TARGET, RESET, FAILURE = 0, 1, 2, 3, 4, 9
COMPLETE, SUCCEEDED, REJECTED, INCORRECT_LUN = 0, 10, 11, 12
GOOD, CHECK = 0, 2
SIMPLE, ORDERED, HEAD = 0, 1, 2
SIZE = 1 << 20


@dataclass
class ScsiBench:
    """Everything a test may want to touch."""

    engine: Engine
    puppet: PuppetDisk
    """LUN 0 stands on it; it holds nothing unless told."""
    target: Target
    device: ScsiDevice
    memory: GuestMemory
    transport: MmioTransport
    space: MmioSpace

    def driver(self, arena: Arena | None = None, **options: Any) -> VirtioScsi:
        """A driver that has been told all unit attentions."""
        arena = arena or Arena(self.memory, self.memory.regions[0].address, RAM_SIZE)
        poll = lambda: self.engine.turn(0.01)  # noqa: E731
        driver = VirtioScsi(self.space, BASE, arena, poll=poll, **options)
        for lun in self.target.luns:
            while driver.command(lun, bytes(6)).status:
                pass
        return driver

    def settle(self) -> None:
        """Let the device do all it can do now."""
        for _ in range(8):
            self.engine.turn(0)

    @property
    def needs_reset(self) -> bool:
        return DeviceStatus(self.transport.status()).DEVICE_NEEDS_RESET

    def hold(self, *names: str) -> None:
        """From now on operations of those names wait; without any, none does."""
        self.puppet.holds = lambda name, sector, count: name in names


def make(engine: Engine, memory: GuestMemory | None = None, **options: Any) -> ScsiBench:
    """A bench with units 0, 1 and 300."""
    puppet = PuppetDisk(RamDisk(SIZE), holds=lambda name, sector, count: False)
    memory = memory or GuestMemory.of_size(RAM_SIZE, RAM_START)
    target = Target(engine)
    target.add(0, ScsiDisk(puppet))
    target.add(1, ScsiDisk(RamDisk(SIZE, sector_size=4096)))
    target.add(300, Dvd(RamDisk(SIZE)))
    device = ScsiDevice(target, engine, **options)
    transport, space = MmioTransport(device, memory, Line(lambda level: None)), MmioSpace()
    space.map(BASE, transport)
    return ScsiBench(engine, puppet, target, device, memory, transport, space)


def read10(lba: int, count: int = 1) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, count, 0)


def write10(lba: int, count: int = 1) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, count, 0)


def sense_of(answer: Answer) -> tuple[int, int, int]:
    """Key, code and qualifier."""
    assert (answer.response, answer.status) == (OK, CHECK), answer
    return answer.sense[2], answer.sense[12], answer.sense[13]
