"""Small words the qcow2 tests share."""

from __future__ import annotations

import random
from typing import Any

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError
from drivebay.disk.formats.qcow2 import Qcow2Disk, check, create
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.suspend import run
from tests.disk.support import noise

SECTOR = 512
KIB = 1 << 10
MIB = 1 << 20


class Ram(RamDisk):
    """One that outlives the image in it."""

    def close(self) -> None:
        pass

    def copy(self) -> Ram:
        return of_bytes(content(self))


def content(disk: Disk) -> bytearray:
    data = bytearray(disk.byte_count)
    run(disk.read(0, [memoryview(data)]))
    return data


def of_bytes(data: bytes | bytearray) -> Ram:
    disk = Ram(len(data) + -len(data) % SECTOR)
    run(disk.write(0, [memoryview(bytes(data).ljust(disk.byte_count, b"\0"))]))
    return disk


def blank(size: int, **options: Any) -> Ram:
    """A new image in memory."""
    disk = Ram(SECTOR)
    create(disk, size, **options)
    return disk


def nearly_full(size: int, leak: int = 3700) -> Ram:
    """An image so many of whose clusters have leaked that its refcount table has to grow soon."""
    disk = blank(size, cluster_size=512, refcount_bits=64)
    image = Qcow2Disk(disk)
    run(image._refcounts.allocate_in_row(leak))
    image.close()
    return disk


def over(top: Qcow2Disk, below: Disk) -> LayeredDisk:
    return LayeredDisk([top, DiskLayer(below)])


def is_sound(disk: Disk) -> None:
    """No cluster is used that is not counted; some may be lost."""
    found = check(disk)
    assert found.corruptions == 0, found.problems


def is_clean(disk: Disk) -> None:
    found = check(disk)
    assert found.clean and found.leaks == 0, found.problems


class Guest:
    """Does anything to a disk and knows what it must read.

    `stable` is what a flush has made stable, `since` what each sector may be besides, and `doubt`
    the same for those whose last change has failed.
    """

    def __init__(self, disk: Disk, seed: int = 0) -> None:
        self.disk = disk
        self.chance = random.Random(seed)
        self.model = content(disk)
        self.stable = bytes(self.model)
        self.since: dict[int, set[bytes]] = {}
        self.doubt: dict[int, set[bytes]] = {}
        self._settled: set[int] = set()

    def step(self) -> None:
        sectors = self.disk.sector_count
        count = min(self.chance.choice((1, 3, 8, 40)), sectors)
        start = self.chance.randrange(sectors - count + 1)
        doing, seed = self.chance.random(), self.chance.getrandbits(30)
        data = noise(count * SECTOR, seed) if doing < 0.6 else bytes(count * SECTOR)
        changed = range(start, start + count)
        old, new = (sectors_of(data) for data in (self.model[start * SECTOR :][: len(data)], data))
        self.model[start * SECTOR : (start + count) * SECTOR] = data
        for sector, value in zip(changed, new, strict=True):
            self.since.setdefault(sector, set()).add(value)
        try:
            if doing < 0.6:
                run(self.disk.write(start, [memoryview(data)], seed % 32 == 0))
            elif doing < 0.8:
                run(self.disk.unmap(start, count))
            else:
                run(self.disk.write_zeroes(start, count, unmap=seed % 2 == 0))
        except DiskError:
            for sector, values in zip(changed, zip(old, new, strict=True), strict=True):
                self.doubt.setdefault(sector, set()).update(values)
            self._settled.difference_update(changed)
            raise
        self._settled.update(changed)

    def flush(self) -> None:
        run(self.disk.flush())
        self.stable, self.since = bytes(self.model), {}
        for sector in self._settled:
            self.doubt.pop(sector, None)
        self._settled.clear()

    def may_be(self, sector: int) -> set[bytes]:
        """What is in the sector if the power fails now."""
        was = self.stable[sector * SECTOR :][:SECTOR]
        return {was} | self.since.get(sector, set()) | self.doubt.get(sector, set())


def sectors_of(data: bytes | bytearray) -> list[bytes]:
    return [bytes(data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]
