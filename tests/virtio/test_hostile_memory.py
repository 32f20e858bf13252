"""Guest memory that changes between any two looks of the device: hostile.md 4.3."""

from __future__ import annotations

import struct

import pytest

from drivebay.controllers.virtio.registers import Segment
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.virtio_ring import Buffer
from drivebay.suspend import run
from drivebay.testing import FlippingMemory, RecordingDisk

from .bench import ALL, IOERR, OK, RAM_SIZE, RAM_START, SPLIT, UNSUPP, Guest, MakeBench

IN, OUT, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 8, 11, 13


@pytest.fixture(params=[SPLIT, ALL], ids=["split", "packed"])
def guest(bench: MakeBench, request: pytest.FixtureRequest) -> Guest:
    """One whose memory can flip, of a disk whose every sector is its number."""
    disk = RamDisk(1 << 20)
    run(disk.write(0, [memoryview(b"".join(bytes([n]) * 512 for n in range(256)))]))
    memory = FlippingMemory.of_size(RAM_SIZE, RAM_START)
    memory.armed = False
    return bench(RecordingDisk(disk), memory).guest(features=request.param)


def flipping(guest: Guest) -> FlippingMemory:
    assert isinstance(guest.memory, FlippingMemory)
    return guest.memory


def calls(guest: Guest) -> list[tuple[str, int, int]]:
    disk = guest.bench.disk
    assert isinstance(disk, RecordingDisk)
    return [(call.name, call.sector, call.count) for call in disk.calls]


def while_flipping(guest: Guest, chain: list[Buffer], *, indirect: bool = False) -> None:
    """Send a chain through memory that holds still, and have it served by one that does not."""
    table = guest.arena.take(16 * len(chain)) if indirect else None
    guest.driver.ring().add(chain, indirect=table)
    flipping(guest).armed = True
    guest.kick()
    guest.bench.finish()
    flipping(guest).armed = False


def header(kind: int, sector: int) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


@pytest.mark.parametrize("start", range(3))
def test_a_header_is_looked_at_once_and_taken_whole(guest: Guest, start: int) -> None:
    with guest.bench.survives():
        turns = [header(IN, 1), header(OUT, 1 << 60), header(99, 3)]
        read = guest.request(IN, 1, room=512)
        watch = flipping(guest).watch(read.chain[0].address, turns[start:] + turns[:start])
        while_flipping(guest, read.chain)
        assert watch.views == 1
        data, status = guest.get(read.data, 512), guest.status(read)
        snapshots = {OK: (b"\x01" * 512, [("read", 1, 1)])}  # or nothing at all
        assert (data, calls(guest)) == snapshots.get(status, (bytes(512), []))
        assert status in (OK, IOERR, UNSUPP)


def test_a_header_in_pieces_is_looked_at_once_in_each(guest: Guest) -> None:
    with guest.bench.survives():
        read = guest.request(IN, 1, room=512)
        at = read.chain[0].address
        watches = [flipping(guest).watch(at + n, length=4) for n in range(0, 16, 4)]
        read.chain[:1] = [Buffer(at + n, 4, False) for n in range(0, 16, 4)]
        while_flipping(guest, read.chain)
        assert [watch.views for watch in watches] == [1] * 4
        assert guest.status(read) in (OK, IOERR, UNSUPP)


@pytest.mark.parametrize("kind", [DISCARD, WRITE_ZEROES])
def test_segments_are_looked_at_once(guest: Guest, kind: int) -> None:
    """What was found good is what is done."""
    with guest.bench.survives():
        turns = [(n, 1 + n % 2) for n in range(1, 8)] + [(1 << 40, 8), (3, 0xFFFFFFFF)]
        request = guest.request(kind, 0, out=Segment(0, 1, 0).pack())
        watch = flipping(guest).watch(request.data, [Segment(s, n, 0).pack() for s, n in turns])
        while_flipping(guest, request.chain)
        assert watch.views == 1
        assert [(sector, count) in turns for _, sector, count in calls(guest)] in ([True], [])
        assert guest.status(request) == (OK if calls(guest) else IOERR)


def test_an_indirect_table_is_looked_at_once(guest: Guest) -> None:
    """It flips between two requests, each whole; what is served is the one that was looked at."""
    with guest.bench.survives():
        reads = [guest.request(IN, n, room=512) for n in (1, 2)]
        tables = []
        for read in reads:
            guest.driver.ring().add(read.chain, indirect=guest.arena.take(48))
            tables.append(guest.get(guest.arena._next - 48, 48))
        at = guest.arena._next - 48
        watch = flipping(guest).watch(at, tables)
        flipping(guest).armed = True
        guest.kick()
        flipping(guest).armed = False
        assert watch.views == 1
        assert len(calls(guest)) == 2
        for read, n in zip(reads, (1, 2), strict=True):
            if guest.status(read) == OK:
                assert guest.get(read.data, 512) == bytes([n]) * 512
        assert any(guest.status(read) == OK for read in reads)


def test_descriptors_are_read_once(guest: Guest) -> None:
    """The ring's own memory flips after they were read, and nobody notices."""
    with guest.bench.survives():
        read = guest.request(IN, 5, room=512)
        table = guest.driver.ring().addresses[0]
        guest.driver.ring().add(read.chain)
        now = guest.get(table, 48)
        flipping(guest).watch(table, [b"\xff" * 48, b"\x5a" * 48, now])
        flipping(guest).armed = True
        guest.kick()
        flipping(guest).armed = False
        assert guest.status(read) == OK
        assert guest.get(read.data, 512) == b"\x05" * 512
        assert calls(guest) == [("read", 5, 1)]


@pytest.mark.parametrize("kind", [IN, GET_ID])
def test_what_the_device_writes_is_never_read(guest: Guest, kind: int) -> None:
    """Neither the room for data nor the status byte means anything before."""
    with guest.bench.survives():
        request = guest.request(kind, 9, room=512)
        data = flipping(guest).watch(request.data, length=512)
        status = flipping(guest).watch(request.status_at, length=1)
        while_flipping(guest, request.chain, indirect=True)
        assert (data.views, status.views) == (1, 1)
        assert guest.status(request) == OK


# -- the flipping memory itself --------------------------------------------------------------------


def test_a_watched_range_takes_its_values_in_turn() -> None:
    memory = FlippingMemory.of_size(4096)
    watch = memory.watch(8, [b"ab", b"cd"])
    assert [bytes(memory.view(8, 2)) for _ in range(3)] == [b"ab", b"cd", b"ab"]
    assert bytes(memory.views(9, 1)[0]) == b"d"
    assert watch.views == 4
    memory.view(10, 4)
    memory.view(0, 8)
    assert watch.views == 4  # beside it
    assert bytes(memory.regions[0].view[8:10]) == b"cd"  # but it went on


def test_without_values_a_range_and_its_complement_take_turns() -> None:
    memory = FlippingMemory.of_size(4096)
    memory.watch(0, length=2)
    assert [bytes(memory.view(0, 2)) for _ in range(3)] == [b"\xff\xff", b"\0\0", b"\xff\xff"]


def test_memory_that_is_not_armed_holds_still() -> None:
    memory = FlippingMemory.of_size(4096)
    watch = memory.watch(0, [b"a", b"b"])
    memory.armed = False
    assert bytes(memory.view(0, 1)) == b"\0"
    assert watch.views == 0


def test_the_short_cut_stays_shut() -> None:
    memory = FlippingMemory.of_size(4096)
    memory.watch(0, [b"a"])
    memory.view(0, 1)
    memory.views(0, 4096)
    assert memory.window[1] == 0


def test_values_must_have_one_length() -> None:
    with pytest.raises(ValueError):
        FlippingMemory.of_size(4096).watch(0, [b"a", b"bc"])
