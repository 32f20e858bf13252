"""Disks that fail under a guest, and what a guest may cost its host: hostile.md 4.8, 4.11, 4.12."""

from __future__ import annotations

import errno
import gc
import logging
import struct

import pytest

from drivebay.controllers.virtio.registers import Segment
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.errors import (
    AbortedByPreempt,
    DiskError,
    IllegalBlock,
    InvalidInput,
    IoError,
    Medium,
    MediumError,
    MemoryAccess,
    NoSpace,
    ReadOnly,
    ReservationConflict,
)
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Resume, Suspension, Workers, blocking
from drivebay.testing import PuppetDisk

from .bench import ALL, IOERR, OK, SPLIT, UNSUPP, Guest, MakeBench, Sent

IN, OUT, FLUSH, DISCARD, WRITE_ZEROES = 0, 1, 4, 11, 13

DISK_ERRORS: list[DiskError] = [
    IoError(errno.EIO, "x"),
    IoError(errno.EINTR, "x"),
    IoError(errno.EAGAIN, "x"),
    NoSpace(errno.ENOSPC, "x"),
    NoSpace(errno.EDQUOT, "x"),
    MediumError(Medium.UNRECOVERED_READ, 7),
    MemoryAccess("x"),
    ReadOnly("x"),
    IllegalBlock(0, 1, 0),
    InvalidInput("x"),
    ReservationConflict("x"),
    AbortedByPreempt("x"),
]
BUGS: list[type[Exception]] = [
    ValueError,
    RecursionError,
    MemoryError,
    struct.error,
    OverflowError,
    AssertionError,
    StopAsyncIteration,
    BufferError,
    NotImplementedError,
]


class FailingDisk(Filter):
    """Every operation raises `error`: at once, after a worker's trip, or as its wait begins."""

    kind = "failing"

    def __init__(self, below: Disk, how: str, error: Exception) -> None:
        super().__init__(below)
        self.how, self.error, self.fails = how, error, True

    async def _fail(self) -> None:
        if not self.fails:
            return
        if self.how == "on a worker":
            await blocking(self._raise)
        if self.how == "as its wait begins":
            await _NoBeginning(self.error)
        self._raise()

    def _raise(self) -> None:
        raise self.error

    async def read(self, sector: int, buffers: Buffers) -> None:
        await self._fail()
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        await self._fail()
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        await self._fail()
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        await self._fail()

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        await self._fail()


class _NoBeginning(Suspension[None]):
    """What happens when no thread can be started."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def begin(self, workers: Workers, resume: Resume) -> None:
        raise self._error


def one_of_each(guest: Guest) -> list[Sent]:
    segment = Segment(0, 1, 0).pack()
    return [
        guest.request(IN, 0, room=512),
        guest.request(OUT, 0, out=bytes(512)),
        guest.request(FLUSH),
        guest.request(DISCARD, 0, out=segment),
        guest.request(WRITE_ZEROES, 0, out=segment),
    ]


def outcomes(guest: Guest, requests: list[Sent]) -> list[int]:
    """Send them all, wait, and look."""
    for request in requests:
        guest.driver.ring().add(request.chain)
    guest.kick()
    guest.bench.finish()
    assert len(guest.used()) == len(requests)
    return [guest.status(request) for request in requests]


HOW = pytest.mark.parametrize("how", ["at once", "on a worker", "as its wait begins"])


@HOW
@pytest.mark.parametrize("error", DISK_ERRORS, ids=lambda e: f"{type(e).__name__} {e}")
def test_a_failing_disk_is_an_io_error_and_the_device_goes_on(
    bench: MakeBench, error: DiskError, how: str
) -> None:
    disk = FailingDisk(RamDisk(1 << 20), how, error)
    b = bench(disk)
    with b.survives():
        guest = b.guest(features=SPLIT)
        assert outcomes(guest, one_of_each(guest)) == [IOERR] * 5
        disk.fails = False
        assert outcomes(guest, one_of_each(guest)) == [OK] * 5
        assert b.device.statistics.errors == 5
        assert not b.needs_reset


@HOW
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_a_disk_fails_one_command_and_is_logged(
    bench: MakeBench, bug: type[Exception], how: str, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FailingDisk(RamDisk(1 << 20), how, bug("found by a test"))
    b = bench(disk)
    with b.survives():
        guest = b.guest(features=SPLIT)
        assert outcomes(guest, one_of_each(guest)) == [IOERR] * 5
        logged = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(logged) == 5
        assert all(r.exc_info for r in logged)  # with its source
        caplog.clear()
        disk.fails = False
        assert outcomes(guest, one_of_each(guest)) == [OK] * 5
        assert not b.needs_reset


def test_a_slow_request_delays_no_other(bench: MakeBench) -> None:
    """4.11: and they end in the order of the disk, not of the guest."""
    puppet = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: sector == 5)
    b = bench(puppet)
    with b.survives():
        guest = b.guest(features=SPLIT)
        slow, fast = guest.request(IN, 5, room=512), guest.request(IN, 6, room=512)
        guest.driver.ring().add(slow.chain)
        guest.send(fast.chain)
        assert [guest.status(slow), guest.status(fast)] == [0xFF, OK]
        puppet.complete_all()
        b.settle()
        assert guest.status(slow) == OK


# -- what a guest may cost -------------------------------------------------------------------------


def test_bad_requests_do_not_fill_the_log(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        bad = guest.request(IN, 1 << 60, room=512)
        for _ in range(2000):
            assert guest.ask(bad) == IOERR
            guest.driver.set("MagicValue", 1)
        assert len(caplog.records) <= 25


def test_even_our_own_bugs_do_not_fill_the_log(
    bench: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    disk = FailingDisk(RamDisk(1 << 20), "at once", ValueError("x"))
    b = bench(disk)
    with b.survives():
        guest = b.guest(features=SPLIT)
        read = guest.request(IN, 0, room=512)
        for _ in range(1000):
            assert guest.ask(read) == IOERR
        assert 1 <= len(caplog.records) <= 12
        disk.fails = False
        caplog.clear()


@pytest.mark.parametrize("features", [SPLIT, ALL], ids=["split", "packed"])
def test_a_flood_of_bad_requests_leaves_no_objects_behind(bench: MakeBench, features: int) -> None:
    """CVE-2026-61476: a million, scaled down to 40 000."""
    b = bench()
    with b.survives(seconds=5):
        guest = b.guest(features=features)
        bad = [
            guest.request(IN, 1 << 60, room=512),
            guest.request(77, 0, out=bytes(64)),
            guest.request(OUT, 0, room=512),
            guest.request(DISCARD, 0, out=Segment(1 << 60, 1, 0).pack()),
        ]
        ring = guest.driver.ring()

        def flood(rounds: int) -> int:
            for _ in range(rounds):
                for request in bad * 5:
                    ring.add(request.chain)
                guest.driver.notify(0)
                assert len(list(ring.take())) == 20
            gc.collect()
            return len(gc.get_objects())

        flood(50)
        before = flood(50)
        assert flood(2000) - before < 50
        assert [guest.status(request) for request in bad] == [IOERR, UNSUPP, IOERR, IOERR]


def test_lengths_from_the_guest_allocate_nothing(bench: MakeBench) -> None:
    """4 GiB minus a bit in a descriptor, 254 times over: a view is not a copy."""
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        for kind in (IN, OUT, 8, DISCARD, 99):
            request = guest.request(kind, 0, out=b"" if kind in (IN, 8) else b"x" * 512, room=512)
            request.chain[1:2] = [request.chain[1]._replace(length=0xFFFFFE00)] * 250
            assert guest.ask(request) == IOERR
            whole = request.chain[1]._replace(
                address=guest.arena._end - (15 << 20), length=15 << 20
            )
            request.chain[1:-1] = [whole] * 250
            assert guest.ask(request) in (IOERR, UNSUPP, OK)
