"""Hostile 4.8: the nth operation of the disk under an image fails, once and for ever. No write that
failed is told to have succeeded, nothing flushed is lost, and the image is sound.
"""

from __future__ import annotations

import errno
import itertools
from contextlib import suppress

import pytest

from drivebay.disk.contract import Buffers, Disk, Extent
from drivebay.disk.errors import DiskError, DiskOpenError, IoError, NoSpace
from drivebay.disk.filters.base import Filter
from drivebay.disk.formats.qcow2 import Qcow2Disk
from tests.disk.support import fill
from tests.qcow2.support import (
    KIB,
    SECTOR,
    Guest,
    Ram,
    blank,
    content,
    is_sound,
    nearly_full,
    of_bytes,
    over,
    sectors_of,
)


class Failing(Filter):
    """The `at`-th operation fails, and with `ever` all after it."""

    def __init__(self, below: Disk, at: int, ever: bool, error: DiskError) -> None:
        super().__init__(below)
        self.at, self.ever, self.error = at, ever, error
        self.met = 0
        self.names: list[str] = []

    def strike(self, name: str) -> None:
        self.met += 1
        if self.met == self.at or (self.ever and self.met > self.at):
            self.names.append(name)
            raise self.error

    async def read(self, sector: int, buffers: Buffers) -> None:
        self.strike("read")
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self.strike("write")
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        self.strike("flush")
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        self.strike("unmap")
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        self.strike("write_zeroes")
        await self.below.write_zeroes(sector, count, fua, unmap)

    async def resize(self, sector_count: int) -> None:
        self.strike("resize")
        await self.below.resize(sector_count)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        return await self.below.extents(sector, count)


ERRORS = {"eio": IoError(errno.EIO, "test"), "enospc": NoSpace(errno.ENOSPC, "test")}


@pytest.mark.parametrize("ever", [False, True], ids=["once", "for-ever"])
@pytest.mark.parametrize(
    ("sort", "error"), [*itertools.product(["alone", "over"], ERRORS), ("growing", "eio")]
)
def test_every_operation_fails(sort: str, error: str, ever: bool) -> None:
    below = Ram(60 * KIB)
    fill(below)
    if sort == "growing":  # the refcount table has to
        new = bytes(content(nearly_full(128 * KIB, 3850)))
    else:
        new = bytes(content(blank(64 * KIB, cluster_size=512 if sort == "alone" else 2048)))
    at, met = 1, set()
    while True:
        store = of_bytes(new)
        failing = Failing(store, at, ever, ERRORS[error])
        try:
            image = Qcow2Disk(failing)
        except DiskOpenError:
            at += 1
            continue
        guest = Guest(over(image, below) if sort == "over" else image, seed=3)
        for number in range(24):
            with suppress(DiskError):
                guest.flush() if number % 4 == 3 else guest.step()
        if not failing.names:
            break
        met.update(failing.names)
        is_sound(store)
        with suppress(DiskError):
            for sector, now in enumerate(sectors_of(content(guest.disk))):
                was = bytes(guest.model[sector * SECTOR :][:SECTOR])
                assert now == was or now in guest.doubt.get(sector, ()), (at, sector)
        copy = store.copy()
        after = over(Qcow2Disk(copy), below) if sort == "over" else Qcow2Disk(copy)
        for sector, now in enumerate(sectors_of(content(after))):
            assert now in guest.may_be(sector), (at, sector)
        try:
            guest.disk.close()
        except DiskError:
            assert ever
        is_sound(store)
        at += 1
    assert {"read", "write", "flush"} <= met
