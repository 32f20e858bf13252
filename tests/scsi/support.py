"""An initiator of a few lines, and discs for it."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.sense import CheckCondition, Sense
from drivebay.scsi.task import Direction, LogicalUnit, Task
from drivebay.suspend import run
from drivebay.wire import Struct

BLOCK = 2048

TEST_UNIT_READY = bytes(6)
EJECT = bytes([0x1B, 0, 0, 0, 2, 0])
LOAD = bytes([0x1B, 0, 0, 0, 3, 0])
PREVENT = bytes([0x1E, 0, 0, 0, 1, 0])
ALLOW = bytes([0x1E, 0, 0, 0, 0, 0])
READ_CAPACITY = bytes([0x25, *bytes(9)])


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def disc(blocks: int = 64, sector_size: int = 512, seed: int = 1) -> tuple[RamDisk, bytes]:
    """A disk of `blocks` of 2048 bytes and what is on it."""
    disk = RamDisk(blocks * BLOCK, sector_size=sector_size)
    data = noise(blocks * BLOCK, seed)
    run(disk.write(0, [memoryview(bytearray(data))]))
    return disk, data


class BigDisk(Disk):
    """A disk of which only the size is looked at; its sectors read as their number."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.sector_size = self.physical_sector_size = BLOCK
        self.sector_count = blocks
        self.read_only = True

    async def read(self, sector: int, buffers: Buffers) -> None:
        self.check_range(sector, sum(map(len, buffers)) // BLOCK)


def quiet(disk: Disk | None = None) -> Dvd:
    """A drive whose initiator has seen the power on."""
    drive = Dvd(disk)
    sense(drive, TEST_UNIT_READY)
    return drive


def perform(
    unit: LogicalUnit, cdb: bytes | Struct, data: bytes = b"", parts: Iterable[int] = ()
) -> bytes:
    """What `cdb` answers; `data` is what it takes. `parts` cuts the transfer."""
    task = unit.execute(cdb if isinstance(cdb, bytes) else cdb.pack())
    return complete(task, data, parts)


def complete(task: Task, data: bytes = b"", parts: Iterable[int] = ()) -> bytes:
    buffer = bytearray(task.length)
    if task.direction is Direction.OUT:
        buffer = bytearray(data[: task.length])
    elif task.direction is Direction.NONE:
        assert task.length == 0
    offset = 0
    for part in (*parts, len(buffer)):
        end = min(offset + part, len(buffer))
        if offset < end:
            run(task.transfer(offset, [memoryview(buffer)[offset:end]]))
            offset = end
    run(task.finish())
    return b"" if task.direction is Direction.OUT else bytes(buffer)


def refused(unit: LogicalUnit, cdb: bytes | Struct, data: bytes = b"") -> Sense:
    """The sense with which `cdb` fails."""
    with pytest.raises(CheckCondition) as caught:
        perform(unit, cdb, data)
    return caught.value.sense


def sense(unit: LogicalUnit, cdb: bytes | Struct, data: bytes = b"") -> tuple[int, int, int]:
    """Key, code and qualifier with which `cdb` fails; zeroes if it does not."""
    try:
        perform(unit, cdb, data)
    except CheckCondition as error:
        return error.sense[:3]
    return 0, 0, 0
