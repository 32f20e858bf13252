"""Copying and comparing whole disks, of any sector size, with holes and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.copying import GRAIN, PIECE, compare, copy, extents
from drivebay.disk.errors import DiskError, InvalidInput, IoError
from drivebay.disk.filters.base import Filter
from drivebay.suspend import run
from drivebay.testing import RecordingDisk
from tests.disk.support import fill, get, noise, put

MIB = 1 << 20


def quietly(done: int) -> None:
    pass


def patchwork(disk: Disk, seed: int) -> bytes:
    """Some data, some zeroes, some holes, at random."""
    chance = random.Random(seed)
    for _ in range(12):
        sector = chance.randrange(disk.sector_count)
        count = chance.randint(1, min(disk.sector_count - sector, 3 * MIB // disk.sector_size))
        match chance.randrange(3):
            case 0:
                run(disk.write_zeroes(sector, count, unmap=chance.random() < 0.5))
            case 1:
                put(disk, sector, bytes(count * disk.sector_size))
            case _:
                put(disk, sector, chance.randbytes(count * disk.sector_size))
    return get(disk, 0, disk.sector_count)


@pytest.mark.parametrize("sectors", [(512, 512), (4096, 512), (512, 4096), (65536, 512)])
@pytest.mark.parametrize("blank", [False, True])
def test_a_copy_is_the_same(sectors: tuple[int, int], blank: bool) -> None:
    for seed in range(4):
        source = RamDisk(9 * MIB + 65536, sector_size=sectors[0])
        target = RamDisk(12 * MIB, sector_size=sectors[1])
        data = patchwork(source, seed)
        if not blank:
            fill(target)
            run(target.write_zeroes(source.byte_count // target.sector_size, 32))
        done: list[int] = []
        run(copy(source, target, done.append, blank=blank))
        assert get(target, 0, len(data) // target.sector_size) == data
        assert sum(done) == len(data)
        if blank:
            assert run(compare(source, target, quietly)) is None
        source.close()
        target.close()


def test_what_is_zero_is_not_written_to_a_blank_disk() -> None:
    source, target = RamDisk(64 * MIB), RecordingDisk(RamDisk(64 * MIB))
    put(source, 0, bytes(4 * MIB))
    put(source, 5 * MIB // 512, noise(GRAIN))
    run(copy(source, target, quietly, blank=True))
    assert [call.name for call in target.calls] == ["write", "flush"]
    run(copy(source, target, quietly, blank=False))
    zeroed = sum(call.count for call in target.calls if call.name == "write_zeroes")
    assert zeroed == (64 * MIB - GRAIN) // 512


def test_a_huge_empty_disk_is_copied_at_once() -> None:
    source, target = RamDisk(16 << 40), RamDisk(16 << 40)
    put(source, (9 << 40) // 512, noise(512))
    run(copy(source, target, quietly, blank=True))
    assert get(target, (9 << 40) // 512, 1) == noise(512)
    assert run(compare(source, target, quietly)) is None


def test_the_first_byte_that_differs_is_found() -> None:
    one, two = RamDisk(8 * MIB), RamDisk(8 * MIB)
    data = patchwork(one, 7)
    put(two, 0, data)
    assert run(compare(one, two, quietly)) is None
    for at in (8 * MIB - 1, 5 * MIB + 77, PIECE, PIECE - 1, 0):
        sector = bytearray(get(two, at // 512, 1))
        sector[at % 512] ^= 1
        put(two, at // 512, bytes(sector))
        assert run(compare(one, two, quietly)) == at
        assert run(compare(two, one, quietly)) == at


@pytest.mark.parametrize("size", [1, 7, 8, 9])
def test_what_is_past_the_end_counts_as_zero(size: int) -> None:
    short, long = RamDisk(size * 512), RamDisk(4 * 4096, sector_size=4096)
    data = fill(short)
    put(long, 0, data.ljust(4 * 4096, b"\0"))
    assert run(compare(short, long, quietly)) is None
    put(long, 3, b"\0" * 4095 + b"x")
    assert run(compare(short, long, quietly)) == run(compare(long, short, quietly)) == 16383


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        run(copy(RamDisk(2 * MIB), RamDisk(MIB), quietly, blank=True))
    with pytest.raises(InvalidInput, match="do not fit"):
        run(copy(RamDisk(512), RamDisk(MIB, sector_size=4096), quietly, blank=True))


class FailsAt(Filter):
    """The nth operation fails."""

    def __init__(self, below: Disk, nth: int) -> None:
        super().__init__(below)
        self.left = nth

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise IoError(5, "failing")

    async def read(self, sector: int, buffers: Buffers) -> None:
        self._count()
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self._count()
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        self._count()
        await self.below.flush()


def test_a_failure_anywhere_is_a_failure() -> None:
    """The nth read, write or flush fails: no copy that has ended well is not the same."""
    source = RamDisk(4 * MIB)
    fill(source)
    attempts: list[Callable[[int], Any]] = [
        lambda nth: copy(FailsAt(source, nth), RamDisk(4 * MIB), quietly, blank=True),
        lambda nth: copy(source, FailsAt(RamDisk(4 * MIB), nth), quietly, blank=True),
        lambda nth: compare(FailsAt(source, nth), source, quietly),
    ]
    for attempt, operations in zip(attempts, (4, 5, 4), strict=True):
        for nth in range(1, operations + 1):
            with pytest.raises(DiskError):
                run(attempt(nth))
        run(attempt(operations + 1))


def test_extents_that_are_alike_are_one(tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "x"), create=8 * MIB)
    put(disk, 2048, noise(MIB))
    put(disk, 4096, noise(MIB))

    async def listed() -> list[tuple[int, int, bool]]:
        return [(e.sector, e.count, e.zero) async for e in extents(disk)]

    assert run(listed()) == [(0, 2048, True), (2048, 4096, False), (6144, 10240, True)]
    disk.close()
