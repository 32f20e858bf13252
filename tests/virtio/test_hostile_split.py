"""Split rings of guests that break the rules: hostile.md 2.4 and 4.5."""

from __future__ import annotations

import struct

import pytest

from drivebay.controllers.virtio.ring import MAX_CHAIN
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.platform.memory import GuestMemory, Region

from .bench import (
    BASE,
    NO_ANSWER,
    OK,
    RAM_SIZE,
    RAM_START,
    SPLIT,
    Guest,
    MakeBench,
    Sent,
)

NEXT, WRITE, INDIRECT = 1, 2, 4
SIZE = 16


def a_guest(bench: MakeBench, size: int = SIZE) -> Guest:
    return bench().guest(features=SPLIT, queue_size=size)


def descriptor(guest: Guest, n: int, address: int, length: int, flags: int, following: int) -> None:
    """Write descriptor `n` of the ring."""
    struct.pack_into("<QIHH", guest.split.table, 16 * n, address, length, flags, following)


def a_read(guest: Guest) -> Sent:
    return guest.request(0, 1, room=512)


# -- the available ring ----------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [SIZE + 1, 0x8000, 0xFFFF])
def test_an_available_index_that_jumps_breaks_the_ring(bench: MakeBench, jump: int) -> None:
    """CVE-2016-5403, Firecracker 8a7152ac7, cloud-hypervisor fbcf2fd6b."""
    guest = a_guest(bench)
    with guest.bench.survives():
        guest.split.avail[1] = jump
        guest.kick()
        assert guest.bench.needs_reset
        assert not guest.used()


def test_what_came_before_the_broken_chain_is_given_back(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        good = a_read(guest)
        guest.split.add(good.chain)
        guest.split.offer(SIZE)
        guest.kick()
        assert guest.bench.needs_reset
        assert guest.status(good) == OK
        assert len(guest.used()) == 1


def test_a_guest_that_adds_while_we_drain_does_not_keep_us(bench: MakeBench) -> None:
    """A drain ends after a ring full, and others get their turn."""
    guest = a_guest(bench)
    read = a_read(guest)
    turns = 0

    ring = guest.split
    head = ring.add(read.chain)

    def feed(level: bool) -> None:
        nonlocal turns
        if level and turns < 10 * SIZE:
            turns += 1
            guest.driver.set("InterruptACK", 3)
            ring.offer(head)

    with guest.bench.survives():
        ring.want_interrupt()
        guest.bench.line._sink = feed
        ring.avail[2 + SIZE] = 0  # the event is behind: every batch interrupts
        guest.driver.notify(0)
        assert turns <= SIZE
        others: list[int] = []
        guest.bench.engine.later(lambda: others.append(turns))
        guest.bench.settle()
        assert others


def test_kicks_do_not_pile_up(bench: MakeBench) -> None:
    """A ring that is always full, and a guest that kicks all the same."""
    guest = a_guest(bench)
    head = guest.split.add(a_read(guest).chain)
    with guest.bench.survives():
        for _ in range(200):
            for _ in range(SIZE):
                guest.split.offer(head)
            guest.driver.notify(0)
        assert len(guest.bench.engine._posted) <= 1


@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 0x7FFF, 0x8000, 0xFFFF])
def test_a_head_outside_the_table_breaks_the_ring(bench: MakeBench, head: int) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        guest.split.offer(head)
        guest.kick()
        assert guest.bench.needs_reset


def test_the_same_head_twice_is_served_once(bench: MakeBench) -> None:
    """In one batch the second is another request of the same buffers; in flight it is refused."""
    guest = a_guest(bench)
    with guest.bench.survives():
        head = guest.split.add(a_read(guest).chain)
        guest.split.offer(head)
        guest.kick()
        assert [token for token, _ in guest.used()] == [head, head]
        assert not guest.bench.needs_reset


def test_indices_run_on_past_65535(bench: MakeBench) -> None:
    guest = a_guest(bench, 4)
    ring = guest.split
    read = a_read(guest)
    head = ring.add(read.chain)
    for round_ in range(65540 // 4 + 2):
        for _ in range(4 if round_ else 3):
            ring.offer(head)
        guest.driver.notify(0)
        assert len(list(ring.take())) == 4
    with guest.bench.survives():
        assert guest.ask(a_read(guest)) == OK


# -- chains ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [[0], [1, 0], [1, 2, 1], [*range(1, SIZE), 0]])
def test_a_loop_of_descriptors_breaks_the_ring(bench: MakeBench, links: list[int]) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        for n, following in enumerate(links):
            descriptor(guest, n, RAM_START, 16, NEXT, following)
        guest.split.offer(0)
        guest.kick()
        assert guest.bench.needs_reset


@pytest.mark.parametrize("following", [SIZE, 0x8000, 0xFFFF])
def test_a_chain_that_leaves_the_table_breaks_the_ring(bench: MakeBench, following: int) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        descriptor(guest, 0, RAM_START, 16, NEXT, following)
        guest.split.offer(0)
        guest.kick()
        assert guest.bench.needs_reset


def test_a_chain_as_long_as_the_ring_is_served(bench: MakeBench) -> None:
    guest = a_guest(bench)
    read = guest.request(0, 1, room=512)
    parts = [Buffer(read.data + n, 1, True) for n in range(SIZE - 3)]
    rest = Buffer(read.data + SIZE - 3, 512 - (SIZE - 3), True)
    guest.send([read.chain[0], *parts, rest, read.chain[-1]])
    assert guest.status(read) == OK


# -- indirect tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 15, 17, 16 * (MAX_CHAIN + 1), 0xFFFFFFF0])
def test_an_indirect_table_of_bad_length_breaks_the_ring(bench: MakeBench, length: int) -> None:
    """CVE-2026-6425 and the packed ring's table of no length."""
    guest = a_guest(bench)
    with guest.bench.survives():
        descriptor(guest, 0, RAM_START, length, INDIRECT, 0)
        guest.split.offer(0)
        guest.kick()
        assert guest.bench.needs_reset


def table_of(guest: Guest, *rows: tuple[int, int, int, int]) -> int:
    return guest.put(b"".join(struct.pack("<QIHH", *row) for row in rows))


@pytest.mark.parametrize(
    "flags, rows",
    [
        pytest.param(INDIRECT | NEXT, [(RAM_START, 16, 0, 0)], id="indirect and next"),
        pytest.param(INDIRECT, [(RAM_START, 16, INDIRECT, 0)], id="nested"),
        pytest.param(
            INDIRECT, [(RAM_START, 16, NEXT, 1), (RAM_START, 16, INDIRECT, 0)], id="nested later"
        ),
        pytest.param(INDIRECT, [(RAM_START, 16, NEXT, 0)], id="loop"),
        pytest.param(
            INDIRECT, [(RAM_START, 16, NEXT, 1), (RAM_START, 16, NEXT, 0)], id="long loop"
        ),
        pytest.param(INDIRECT, [(RAM_START, 16, NEXT, 1)], id="leaves the table"),
        pytest.param(INDIRECT, [(RAM_START, 16, NEXT, 0xFFFF)], id="leaves it far"),
        pytest.param(
            INDIRECT,
            [(RAM_START, 16, NEXT, 2), (0, 0, INDIRECT, 0), (RAM_START, 16, NEXT, 1)],
            id="nested behind a jump",
        ),
    ],
)
def test_an_indirect_table_that_breaks_a_rule_breaks_the_ring(
    bench: MakeBench, flags: int, rows: list[tuple[int, int, int, int]]
) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        descriptor(guest, 0, table_of(guest, *rows), 16 * len(rows), flags, 1)
        guest.split.offer(0)
        guest.kick()
        assert guest.bench.needs_reset


def test_an_indirect_table_may_follow_chained_descriptors(bench: MakeBench) -> None:
    """Section 2.7.5.3.2."""
    guest = a_guest(bench)
    read = a_read(guest)
    (header, data, status), at = read.chain, read.chain[0].address
    table = table_of(guest, (data.address, 512, WRITE | NEXT, 1), (status.address, 1, WRITE, 0))
    descriptor(guest, 0, at, header.length, NEXT, 1)
    descriptor(guest, 1, table, 32, INDIRECT | WRITE, 0)
    guest.split.offer(0)
    guest.kick()
    assert guest.status(read) == OK


def test_an_indirect_table_may_be_linked_in_any_order(bench: MakeBench) -> None:
    guest = a_guest(bench)
    read = a_read(guest)
    header, data, status = (buffer.address for buffer in read.chain)
    table = table_of(
        guest,
        (header, 16, NEXT, 2),
        (status, 1, WRITE, 0),
        (data, 512, WRITE | NEXT, 1),
        (0, 0xFFFFFFFF, INDIRECT, 0),  # not part of the chain
    )
    descriptor(guest, 0, table, 64, INDIRECT, 0)
    guest.split.offer(0)
    guest.kick()
    assert guest.status(read) == OK


# -- where a ring may be ---------------------------------------------------------------------------

HOLE = RAM_START + (1 << 20)  # a page here is missing, and the region after it starts behind it
SECOND = HOLE + 0x1000


def memory_with_a_hole() -> GuestMemory:
    def ram(start: int, size: int) -> Region:
        return Region(start, memoryview(bytearray(size)))

    return GuestMemory([ram(RAM_START, 1 << 20), ram(SECOND, RAM_SIZE)])


@pytest.mark.parametrize("area", ["Desc", "Driver", "Device"])
@pytest.mark.parametrize(
    "address",
    [
        pytest.param(HOLE - 16, id="runs into a hole"),
        pytest.param(HOLE, id="starts in a hole"),
        pytest.param(SECOND - 16, id="ends in RAM, starts in a hole"),
        pytest.param(SECOND + RAM_SIZE - 16, id="runs past the end of RAM"),
        pytest.param(BASE, id="registers of the device"),
        pytest.param((1 << 64) - 16, id="wraps"),
        pytest.param(RAM_START + 1, id="misaligned"),
        pytest.param(0, id="never said"),
    ],
)
def test_a_ring_that_is_not_in_ram_is_not_started(
    bench: MakeBench, area: str, address: int
) -> None:
    """Firecracker 7909c5e6d looked at the last byte only."""
    b = bench(memory=memory_with_a_hole())
    with b.survives():
        arena = Arena(b.memory, SECOND, RAM_SIZE)
        driver = b.driver(arena, features=SPLIT)
        driver.set("QueueReady", 0)
        driver.set(f"Queue{area}Low", address & 0xFFFFFFFF)
        driver.set(f"Queue{area}High", address >> 32)
        driver.set("QueueReady", 1)
        assert b.needs_reset
        assert driver.get("InterruptStatus") & 2
        driver.notify(0)


@pytest.mark.parametrize("area", ["Desc", "Driver", "Device"])
def test_a_ring_across_two_adjoining_regions_is_refused(bench: MakeBench, area: str) -> None:
    """It could be served, at a price for all others; no guest lays out its memory like that."""
    regions = [Region(RAM_START + n * RAM_SIZE, memoryview(bytearray(RAM_SIZE))) for n in (0, 1)]
    b = bench(memory=GuestMemory(regions))
    with b.survives():
        driver = b.driver(features=SPLIT)
        driver.set("QueueReady", 0)
        driver.set(f"Queue{area}Low", RAM_START + RAM_SIZE - 16)
        driver.set("QueueReady", 1)
        assert b.needs_reset


def test_a_queue_of_three_entries_is_refused(bench: MakeBench) -> None:
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        driver.set("QueueReady", 0)
        driver.set("QueueNum", 3)
        driver.set("QueueReady", 1)
        assert b.needs_reset


def test_a_live_queue_cannot_be_moved(bench: MakeBench) -> None:
    guest = a_guest(bench)
    driver = guest.driver
    with guest.bench.survives():
        for area in ("Desc", "Driver", "Device"):
            driver.set(f"Queue{area}Low", RAM_START)
            driver.set(f"Queue{area}High", 0xFFFFFFFF)
        driver.set("QueueNum", 4)
        driver.set("QueueReady", 1)
        assert guest.ask(a_read(guest)) == OK
        assert not guest.bench.needs_reset


@pytest.mark.parametrize("value", [1, 63, 64, 0xFFFF, 0xFFFFFFFF])
def test_a_notification_of_an_absent_queue_is_nothing(bench: MakeBench, value: int) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        guest.driver.set("QueueNotify", value)
        assert guest.ask(a_read(guest)) == OK


# -- data that are the ring ------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_read_into_the_ring_itself_harms_only_the_guest(bench: MakeBench, part: int) -> None:
    """Into its descriptors, the available ring, the used ring: 4.4."""
    guest = a_guest(bench)
    with guest.bench.survives():
        read = a_read(guest)
        read.chain[1] = Buffer(guest.split.addresses[part], 512, True)
        guest.send(read.chain)
        assert guest.status(read) == OK


def test_a_status_byte_in_the_used_ring_harms_only_the_guest(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        read = a_read(guest)
        read.chain[2] = Buffer(guest.split.addresses[2] + 2, 1, True)
        guest.send(read.chain)


def test_data_that_are_the_header_of_the_request_change_nothing(bench: MakeBench) -> None:
    """The header was copied: reading over it does not make it another request."""
    guest = a_guest(bench)
    guest.driver.write(0, b"\xff" * 512)
    with guest.bench.survives():
        header = guest.put(struct.pack("<IIQ", 0, 0, 0) + bytes(496))
        status = guest.put(bytes([NO_ANSWER]))
        guest.send([Buffer(header, 16, False), Buffer(header, 512, True), Buffer(status, 1, True)])
        assert guest.get(header, 512) == b"\xff" * 512
        assert guest.get(status, 1)[0] == OK


def test_the_descriptor_table_can_be_written_to_the_disk(bench: MakeBench) -> None:
    guest = a_guest(bench, 32)
    with guest.bench.survives():
        write = guest.request(1, 0, out=bytes(512))
        write.chain[1] = Buffer(guest.split.addresses[0], 512, False)
        assert guest.ask(write) == OK
