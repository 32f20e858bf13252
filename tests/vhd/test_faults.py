"""Hostile 2.8 and 4.8: the n-th operation of the disk below fails, once or from then on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from drivebay.disk.contract import Buffers, Disk, Unmap
from drivebay.disk.errors import DiskError, DiskOpenError, InvalidInput, IoError, NoSpace
from drivebay.disk.filters.base import Filter
from drivebay.suspend import run
from tests.disk.support import noise
from tests.vhd.support import FORMS, Chain, Expected, content

FAULTS: dict[str, Callable[[], DiskError]] = {
    "io": lambda: IoError(errno.EIO, "fault"),
    "full": lambda: NoSpace(errno.ENOSPC, "fault"),
}


class Failing(Filter):
    """Lets the operation number `at` fail, and with `always` all after it."""

    def __init__(self, below: Disk, fault: str, at: int, always: bool) -> None:
        super().__init__(below)
        self.fault, self.at, self.always = FAULTS[fault], at, always
        self.met = 0

    def _meet(self) -> None:
        self.met += 1
        if self.met == self.at or (self.always and self.met > self.at):
            raise self.fault()

    async def read(self, sector: int, buffers: Buffers) -> None:
        self._meet()
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self._meet()
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        self._meet()
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        self._meet()
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        self._meet()
        await self.below.write_zeroes(sector, count, fua, unmap)

    async def resize(self, sector_count: int) -> None:
        self._meet()
        await self.below.resize(sector_count)


def operations(disk: Disk) -> Iterator[tuple[int, bytes, bool, Any]]:
    """Sector, data, whether they are certain afterwards, and the operation."""
    end, size = disk.sector_count, disk.sector_size
    for at, (sector, count) in enumerate(((3, 5), (end // 2 - 4, 8), (end - 3, 3), (3, 5))):
        data = noise(count * size, at)
        write = disk.write(sector, [memoryview(bytearray(data))], at == 2)
        yield sector, data, True, write
        if at == 1:
            yield 0, b"", True, disk.flush()
    zeroes = bytes(end // 4 * size)
    yield end // 3, zeroes, True, disk.write_zeroes(end // 3, end // 4, unmap=True)
    certain = disk.unmap_behaviour is Unmap.ZEROES
    yield 0, bytes(end // 3 * size), certain, disk.unmap(0, end // 3)
    yield 0, b"", True, disk.flush()
    yield 7, noise(size, 9), True, disk.write(7, [memoryview(bytearray(noise(size, 9)))])


@pytest.mark.parametrize("always", [False, True], ids=["once", "always"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("form", ["vhd-fixed", "vhd-dynamic", "vhd-differencing", *list(FORMS)[5:]])
def test_a_fault_is_an_error_and_loses_nothing_else(form: str, fault: str, always: bool) -> None:
    at = 1
    while _strikes(Chain(FORMS[form]), fault, at, always):
        at += 1
    assert at > 9


def _strikes(chain: Chain, fault: str, at: int, always: bool) -> bool:
    """Whether so many operations were met."""
    failing = Failing(chain.store, fault, at, always)
    try:
        disk = chain.open(failing)
    except DiskOpenError:
        return True
    expected = Expected(chain.content, disk.sector_size)
    failed = False
    for sector, data, certain, operation in operations(disk):
        try:
            run(operation)
        except DiskError:
            failed = True
            expected.set(sector, data, certain=False)
        else:
            expected.set(sector, data, certain)
    assert failed == (failing.met >= at), "a fault that nobody heard of"
    failing.at = 1 << 60  # the disk below is in order again
    expected.check(content(disk))
    run(disk.flush())
    run(disk.write(5, [memoryview(bytearray(disk.sector_size))]))
    expected.set(5, bytes(disk.sector_size), certain=True)
    disk.close()
    assert not chain.damage()
    disk = chain.open()
    expected.check(content(disk))
    disk.close()
    return failing.met >= at


class Losing(Filter):
    """A server that is started again, and has lost what was not flushed: a flush tells so once."""

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self._stable = content(below)
        self.loses = False

    async def flush(self) -> None:
        if self.loses:
            self.loses = False
            await self.below.write(0, [memoryview(bytearray(self._stable))])
            raise IoError(errno.EIO, "the connection was lost")
        self._stable = content(self.below)


def test_what_was_flushed_before_a_loss_is_there_after_it() -> None:
    """Also where the next commit's entry takes the place of the log's."""
    chain = Chain(replace(FORMS["vhdx-differencing"], size=32 << 20))
    losing = Losing(chain.store)
    disk = chain.open(losing)
    data = noise(disk.sector_size, 1)
    run(disk.write(0, [memoryview(bytearray(data))]))
    run(disk.write(disk.sector_count - 1, [memoryview(bytearray(data))]))
    run(disk.flush())
    run(disk.write(1, [memoryview(bytearray(data))]))
    run(disk.flush())
    losing.loses = True
    with pytest.raises(IoError):
        run(disk.flush())
    run(disk.write(disk.sector_count - 2, [memoryview(bytearray(data))]))
    run(disk.flush())
    again = chain.open(read_only=True)  # without a close
    assert content(again)[: 2 * len(data)] == data + data


class Fixed(Filter):
    """A disk that cannot grow, as a block device."""

    async def resize(self, sector_count: int) -> None:
        raise InvalidInput("no")


@pytest.mark.parametrize("form", ["vhd-dynamic", "vhdx-dynamic", "vhdx-differencing"])
def test_a_disk_that_cannot_grow_is_full_not_wrong(form: str) -> None:
    chain = Chain(FORMS[form])
    disk = chain.open(Fixed(chain.store))
    with pytest.raises(NoSpace):
        run(disk.write(0, [memoryview(bytearray(noise(4096)))]))
    assert content(disk) == chain.content
    disk.close()
    assert not chain.damage()


@pytest.mark.parametrize("form", ["vhd-dynamic", "vhdx-dynamic"])
def test_a_flush_error_is_told_and_the_tables_are_written_by_the_next(form: str) -> None:
    chain = Chain(FORMS[form])
    failing = Failing(chain.store, "io", 1 << 60, always=False)
    disk = chain.open(failing)
    run(disk.write(0, [memoryview(bytearray(noise(4096)))]))
    failing.at = failing.met + 1
    with pytest.raises(IoError):
        run(disk.flush())
    run(disk.flush())
    again = chain.open(read_only=True)  # without a close
    assert content(again)[:4096] == noise(4096)
