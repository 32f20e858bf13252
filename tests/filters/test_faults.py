"""Hostile 4.8 for filters: whichever operation below fails, whoever asked hears of it."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from drivebay.disk.backends.file import CACHE_MODES
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk, Extent
from drivebay.disk.errors import DiskError, IoError, Medium, MediumError, NoSpace
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.cache import Cache
from drivebay.disk.filters.crypt import PIECE, Crypt
from drivebay.disk.filters.delay import Delay
from drivebay.disk.filters.guarded import Guarded
from drivebay.disk.filters.latency import Fixed
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.disk.filters.record import Record
from drivebay.disk.filters.striped import Striped
from drivebay.disk.filters.throttle import Limits, Throttle
from drivebay.suspend import run
from tests.disk.support import fill, get, noise, put, view

SIZE = 3 * PIECE
COUNT = (2 * PIECE + 4096) // 512


class Fault:
    """The `at`-th operation of all disks that have it fails."""

    def __init__(self, error: DiskError) -> None:
        self.error = error
        self.at = self.met = 0

    def strike(self) -> None:
        self.met += 1
        if self.met == self.at:
            raise self.error


class Failing(Filter):
    """Fails when its fault says so, before it does anything."""

    def __init__(self, below: Disk, fault: Fault) -> None:
        super().__init__(below)
        self.fault = fault

    async def read(self, sector: int, buffers: Buffers) -> None:
        self.fault.strike()
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self.fault.strike()
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        self.fault.strike()
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        self.fault.strike()
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        self.fault.strike()
        await self.below.write_zeroes(sector, count, fua, unmap)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        self.fault.strike()
        return await self.below.extents(sector, count)

    async def resize(self, sector_count: int) -> None:
        self.fault.strike()
        await self.below.resize(sector_count)

    async def refresh(self) -> None:
        self.fault.strike()
        await self.below.refresh()

    async def eject(self) -> None:
        self.fault.strike()


def record(fault: Fault) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        return Record(failing(fault), f"{folder}/log")


def failing(fault: Fault, size: int = SIZE) -> Failing:
    return Failing(RamDisk(size), fault)


def cached(mode: str) -> Callable[[Fault], Disk]:
    return lambda fault: Cache(failing(fault), mode)


def guarded(fault: Fault) -> Guarded:
    below = Prwrap(failing(fault))
    return Guarded(below, below.reservations.of(b"host", 0))


FILTERS: dict[str, Callable[[Fault], Disk]] = {
    **{f"cache-{mode}": cached(mode) for mode in CACHE_MODES},
    "crypt": lambda fault: Crypt(failing(fault), bytes(range(64))),
    "delay": lambda fault: Delay(failing(fault), Fixed(1e-6)),
    "guarded": guarded,
    "prwrap": lambda fault: Prwrap(failing(fault)),
    "record": record,
    "striped": lambda fault: Striped([failing(fault, SIZE // 3) for _ in range(3)], PIECE // 8),
    "throttle": lambda fault: Throttle(failing(fault), Limits(iops=10**9)),
}

DATA = noise(COUNT * 512)
OPERATIONS: dict[str, Callable[[Disk], Coroutine[Any, Any, Any]]] = {
    "read": lambda disk: disk.read(1, [view(COUNT * 512)]),
    "write": lambda disk: disk.write(1, [memoryview(DATA)]),
    "write-fua": lambda disk: disk.write(1, [memoryview(DATA)], fua=True),
    "flush": lambda disk: disk.flush(),
    "unmap": lambda disk: disk.unmap(1, COUNT),
    "write-zeroes": lambda disk: disk.write_zeroes(1, COUNT),
    "extents": lambda disk: disk.extents(1, COUNT),
    "shrink": lambda disk: disk.resize(SIZE // 1024),
    "grow": lambda disk: disk.resize(SIZE // 512 + 768),
    "refresh": lambda disk: disk.refresh(),
    "eject": lambda disk: disk.eject(),
}
ERRORS = (
    IoError(errno.EIO, "below"),
    NoSpace(errno.ENOSPC, "below"),
    MediumError(Medium.UNRECOVERED_READ, 7),
)
SILENT = {("cache-unsafe", "flush"), ("crypt", "unmap")}  # by contract they ask nothing of it


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_nth_failure_below_surfaces(name: str, operation: str) -> None:
    at = 0
    while _strike(name, operation, ERRORS[at % 3], at + 1):
        at += 1
    assert (at > 0) != ((name, operation) in SILENT)


def _strike(name: str, operation: str, error: DiskError, at: int) -> bool:
    """Whether the operation came as far as the fault."""
    fault = Fault(error)
    disk = FILTERS[name](fault)
    before = fill(disk)
    fault.met, fault.at = 0, at
    heard: DiskError | None = None
    try:
        run(OPERATIONS[operation](disk))
    except DiskError as caught:
        heard = caught
    met, fault.at = fault.met >= at, 0
    assert heard is (error if met else None)
    put(disk, 0, bytes(512))  # the disk is still in order
    assert get(disk, 0, 1) == bytes(512)
    if operation in ("read", "flush", "extents", "refresh", "eject"):
        assert get(disk, 1, 8) == before[512 : 9 * 512]
    disk.close()
    return met
