"""Guest memory as a front end shares it: what cannot be, and changes under running rings."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.vhost_user.codec import PeerError
from drivebay.hosts.vhost_user.memory import MAX_SLOTS, SharedMemory
from drivebay.hosts.vhost_user.messages import MemoryRegion, MemoryTable, Request, SingleRegion
from drivebay.testing import GuestRam, PuppetDisk

from .conftest import MakeBay
from .support import Bay, Desk, no_fd_is_left

PAGE = 4096
TOP = 1 << 64


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam(1 << 20)
    yield ram
    ram.close()


def region(guest: int, length: int = PAGE, user: int = 0, offset: int = 0) -> MemoryRegion:
    return MemoryRegion(guest, length, user, offset)


def single(region: MemoryRegion) -> bytes:
    return SingleRegion(
        0, region.guest_address, region.length, region.user_address, region.mmap_offset
    ).pack()


CANNOT_BE = {
    "none": [],
    "nine": [region(n * PAGE) for n in range(9)],
    "empty": [region(0, 0)],
    "the same twice": [region(0), region(0)],
    "overlap by a byte": [region(0), region(PAGE - 1)],
    "one inside another": [region(0, 3 * PAGE), region(PAGE)],
    "past the end of addresses": [region(TOP - PAGE + 1)],
    "a length that wraps": [region(PAGE, TOP - PAGE)],
    "past the end of its file": [region(0, 2 << 20)],
    "offset past the end of its file": [region(0, PAGE, 0, 2 << 20)],
    "offset and length that wrap": [region(0, TOP - PAGE, 0, 2 * PAGE)],
    "offset at the end of numbers": [region(0, PAGE, 0, TOP - 1)],
    "the second is bad": [region(0), region(PAGE, 0)],
}


@pytest.mark.parametrize("regions", CANNOT_BE.values(), ids=CANNOT_BE.keys())
def test_regions_that_cannot_be_are_refused_and_leave_the_old_ones(
    ram: GuestRam, regions: list[MemoryRegion]
) -> None:
    memory = SharedMemory()
    memory.replace([ram.region], [ram.fd])
    with no_fd_is_left():
        with pytest.raises(PeerError):
            memory.replace(regions, [ram.fd] * len(regions))
        assert memory.guest_address(ram.region.user_address) == ram.region.guest_address
    memory.forget()


@pytest.mark.parametrize("count", [0, 9, 255, (1 << 32) - 1])
def test_a_count_of_regions_that_is_not_theirs_is_refused(desk: Desk, count: int) -> None:
    payload = MemoryTable(count, 0).pack() + region(0).pack()
    assert desk.refuses(Request.SET_MEM_TABLE, payload, (0,))


def test_as_many_descriptors_as_regions(desk: Desk, ram: GuestRam) -> None:
    payload = MemoryTable(2, 0).pack() + region(0).pack() + region(PAGE).pack()
    with no_fd_is_left():
        for count in (0, 1, 3, 8):
            assert desk.refuses(Request.SET_MEM_TABLE, payload, (ram.fd,) * count)


def test_regions_up_to_the_end_of_addresses_and_numbers(ram: GuestRam) -> None:
    memory = SharedMemory()
    memory.replace([region(TOP - PAGE, PAGE, TOP - PAGE), region(0)], [ram.fd] * 2)
    assert memory.guest_address(TOP - 1) == TOP - 1
    assert len(memory.guest.view(TOP - PAGE, PAGE)) == PAGE
    with pytest.raises(PeerError):
        memory.guest_address(PAGE)


@pytest.mark.parametrize("fd_of", ["pipe", "eventfd", "directory", "read-only"])
def test_what_cannot_be_mapped_is_refused(desk: Desk, fd_of: str) -> None:
    fds = {
        "pipe": lambda: os.pipe()[0],
        "eventfd": lambda: os.eventfd(0),
        "directory": lambda: os.open("/", os.O_RDONLY),
        "read-only": lambda: os.open("/bin/sh", os.O_RDONLY),
    }
    fd = fds[fd_of]()
    payload = MemoryTable(1, 0).pack() + region(0).pack()
    assert desk.refuses(Request.SET_MEM_TABLE, payload, (fd,))
    os.close(fd)


def test_slots_are_added_up_to_the_limit_and_removed(ram: GuestRam) -> None:
    memory = SharedMemory()
    slots = [region(n * PAGE, PAGE, n * PAGE, n * PAGE) for n in range(MAX_SLOTS)]
    with no_fd_is_left():
        for slot in slots:
            memory.add(slot, ram.fd)
        with pytest.raises(PeerError, match="more than 64"):
            memory.add(region(1 << 40), ram.fd)
        for slot in slots:
            memory.remove(slot)
        assert memory.guest.regions == ()
        with pytest.raises(PeerError, match="no memory region"):
            memory.remove(slots[0])


def test_a_region_is_added_by_one_descriptor_and_removed_with_any(
    desk: Desk, ram: GuestRam
) -> None:
    for count in (0, 2, 8):
        assert desk.refuses(Request.ADD_MEM_REG, single(ram.region), (ram.fd,) * count)
    with no_fd_is_left():
        for count in (0, 1):
            desk.say(Request.ADD_MEM_REG, single(ram.region), (ram.fd,))
            desk.say(Request.REM_MEM_REG, single(ram.region), (ram.fd,) * count)


# -- under running rings --------------------------------------------------------------------------


def test_memory_may_be_shared_anew_while_rings_run(bay: Bay, packed: bool) -> None:
    with bay.guest(packed=packed) as guest:
        table = MemoryTable(1, 0).pack() + guest.ram.region.pack()
        for n in range(50):
            pending = guest.submit(1, n, data=bytes([n]) * 512)
            guest.tell(Request.SET_MEM_TABLE, table, [guest.ram.fd])
            assert guest.wait(pending) == 0
            assert guest.read(n, 512) == bytes([n]) * 512


def test_memory_is_plugged_and_unplugged_while_rings_run(bay: Bay, packed: bool) -> None:
    with bay.guest(packed=packed) as guest:
        more = MemoryRegion(1 << 40, 4 * PAGE, 1 << 41, 0)
        for n in range(20):
            guest.tell(Request.ADD_MEM_REG, single(more), [guest.ram.fd])
            guest.write(n, b"x" * 512)
            guest.tell(Request.REM_MEM_REG, single(more))
            assert guest.read(n, 512) == b"x" * 512


def test_a_ring_whose_memory_is_taken_away_sleeps_until_it_is_back(
    make_bay: MakeBay, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """QEMU replaces a region that has changed like this."""
    disk = PuppetDisk(RamDisk(1 << 20), holds=lambda _, sector, count: sector == 9)
    bay = make_bay(disk)
    with bay.guest(packed=packed) as guest:
        held = guest.submit(0, 9, 512)
        guest.notify(0)
        bay.settle()
        assert len(disk.held) == 1
        guest.tell(Request.REM_MEM_REG, single(guest.ram.region))
        pending = guest.submit(0, 0, 512)
        guest.notify(0)
        disk.complete_all()
        bay.settle()
        guest.collect()
        assert pending.written is None
        guest.tell(Request.ADD_MEM_REG, single(guest.ram.region), [guest.ram.fd])
        assert guest.wait(pending) == 0
        assert guest.wait(held) == 0
        assert not guest.get(Request.GET_STATUS) & 0x40  # DEVICE_NEEDS_RESET
        guest.write(1, b"y" * 512)
        assert guest.read(1, 512) == b"y" * 512
    assert not caplog.records


def test_a_ring_without_memory_can_be_reset(bay: Bay, packed: bool) -> None:
    with bay.guest(packed=packed) as guest:
        guest.tell(Request.REM_MEM_REG, single(guest.ram.region))
        guest.tell(Request.RESET_DEVICE)
        guest.initialise()
        guest.write(1, b"y" * 512)
        assert guest.read(1, 512) == b"y" * 512


def test_the_flags_of_shared_descriptors_are_left_alone(make_bay: MakeBay) -> None:
    bay = make_bay()
    with bay.guest() as guest:
        for blocking in (False, True):
            for fd in (*guest.kicks, *guest.calls, *guest.errors):
                os.set_blocking(fd, blocking)
            guest.reconnect()
            guest.write(0, b"z" * 512)
            for fd in (*guest.kicks, *guest.calls, *guest.errors):
                assert bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK) is not blocking
            for fd in guest.calls:
                os.set_blocking(fd, False)
