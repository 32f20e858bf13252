"""Packed rings of guests that break the rules: hostile.md 2.4 and 4.5."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from drivebay.controllers.virtio.packed import PackedQueue
from drivebay.controllers.virtio.ring import MAX_CHAIN
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer, PackedDriverRing
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import QueueSetup, RingAddresses, RingError
from drivebay.testing import PuppetDisk

from .bench import ALL, EVENT_IDX, NO_ANSWER, OK, RAM_START, Guest, MakeBench, Sent

NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
SIZE = 16


def a_guest(bench: MakeBench, size: int = SIZE, **options: object) -> Guest:
    return bench(**options).guest(features=ALL & ~EVENT_IDX, queue_size=size)


def descriptor(guest: Guest, n: int, address: int, length: int, ident: int, flags: int) -> None:
    """Write descriptor `n` of the ring."""
    struct.pack_into("<QIHH", guest.packed.ring, 16 * n, address, length, ident, flags)


def a_read(guest: Guest) -> Sent:
    return guest.request(0, 1, room=512)


# -- wrap counters ---------------------------------------------------------------------------------


def test_flipped_wrap_counters_offer_nothing(bench: MakeBench) -> None:
    """CVE-2026-16457: the test for an empty ring must end."""
    guest = a_guest(bench)
    with guest.bench.survives():
        for n in range(SIZE):
            descriptor(guest, n, RAM_START, 16, n, USED)
        guest.kick()
        assert not guest.bench.needs_reset


@pytest.mark.parametrize("flags", [AVAIL | NEXT, AVAIL | NEXT | WRITE])
def test_a_ring_that_is_one_endless_chain_breaks(bench: MakeBench, flags: int) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        for n in range(SIZE):
            descriptor(guest, n, RAM_START, 16, n, flags)
        guest.kick()
        assert guest.bench.needs_reset


def test_a_ring_with_every_descriptor_available_is_served_once(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        table = a_table(guest, a_read(guest).chain)
        for n in range(SIZE):
            descriptor(guest, n, table, 48, n, AVAIL | INDIRECT)
        guest.kick()
        assert guest.bench.device.statistics.requests == SIZE
        assert not guest.bench.needs_reset


def test_a_ring_in_flight_that_looks_available_again_does_not_keep_us(bench: MakeBench) -> None:
    """All of it is held by the disk, and the first descriptor already shows the next lap."""
    puppet = PuppetDisk(RamDisk(1 << 20))
    guest = a_guest(bench, disk=puppet)
    puppet.holds = lambda name, sector, count: True
    with guest.bench.survives():
        table = a_table(guest, a_read(guest).chain)
        for n in range(SIZE):
            descriptor(guest, n, table, 48, n, AVAIL | INDIRECT)
        guest.kick()
        assert len(puppet.held) == SIZE
        descriptor(guest, 0, table, 48, 99, USED | INDIRECT)
        guest.kick()
        assert len(puppet.held) == SIZE
        assert not guest.bench.needs_reset
        puppet.holds = lambda name, sector, count: False
        puppet.complete_all()


def a_table(guest: Guest, chain: list[Buffer]) -> int:
    rows = ((at, length, 0, WRITE if writable else 0) for at, length, writable in chain)
    return guest.put(b"".join(struct.pack("<QIHH", *row) for row in rows))


@pytest.mark.parametrize("size", [3, 4, 5, 7, 255, 256])
def test_chains_across_the_end_of_the_ring(bench: MakeBench, size: int) -> None:
    """A packed ring may have any size, and a chain of three starts everywhere in it."""
    guest = a_guest(bench, size)
    for sector in range(4 * size):
        read = guest.driver.read(sector % 100, 512)
        assert len(read) == 512
    assert guest.bench.device.statistics.reads == 4 * size


def test_the_same_id_twice_in_flight_breaks_the_ring(bench: MakeBench) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    guest = a_guest(bench, disk=puppet)
    with guest.bench.survives():
        table = a_table(guest, a_read(guest).chain)
        descriptor(guest, 0, table, 48, 7, AVAIL | INDIRECT)
        descriptor(guest, 1, table, 48, 7, AVAIL | INDIRECT)
        guest.kick()
        assert guest.bench.needs_reset
        puppet.holds = lambda name, sector, count: False
        puppet.complete_all()


@pytest.mark.parametrize("ident", [SIZE, 0x7FFF, 0xFFFF])
def test_an_id_is_the_drivers_own_affair(bench: MakeBench, ident: int) -> None:
    """It comes back as it went, however large."""
    guest = a_guest(bench)
    with guest.bench.survives():
        table = a_table(guest, a_read(guest).chain)
        descriptor(guest, 0, table, 48, ident, AVAIL | INDIRECT)
        guest.kick()
        length, got, flags = struct.unpack_from("<IHH", guest.packed.ring, 8)
        assert (length, got, flags & (AVAIL | USED)) == (513, ident, AVAIL | USED)


# -- indirect tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 15, 17, 16 * (MAX_CHAIN + 1), 0xFFFFFFF0])
def test_an_indirect_table_of_bad_length_breaks_the_ring(bench: MakeBench, length: int) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        descriptor(guest, 0, RAM_START, length, 0, AVAIL | INDIRECT)
        guest.kick()
        assert guest.bench.needs_reset


def test_an_indirect_table_in_an_indirect_table_breaks_the_ring(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        table = guest.put(struct.pack("<QIHH", RAM_START, 16, 0, INDIRECT))
        descriptor(guest, 0, table, 16, 0, AVAIL | INDIRECT)
        guest.kick()
        assert guest.bench.needs_reset


def test_an_indirect_descriptor_that_goes_on_breaks_the_ring(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        table = a_table(guest, a_read(guest).chain)
        descriptor(guest, 0, table, 48, 0, AVAIL | INDIRECT | NEXT)
        guest.kick()
        assert guest.bench.needs_reset


def test_an_indirect_table_in_a_chain_breaks_the_ring(bench: MakeBench) -> None:
    guest = a_guest(bench)
    with guest.bench.survives():
        read = a_read(guest)
        descriptor(guest, 1, a_table(guest, read.chain[1:]), 32, 0, AVAIL | INDIRECT)
        descriptor(guest, 0, read.chain[0].address, 16, 0, AVAIL | NEXT)
        guest.kick()
        assert guest.bench.needs_reset


def test_links_in_an_indirect_table_mean_nothing(bench: MakeBench) -> None:
    """Section 2.8.7: all of the table, in order; only WRITE counts."""
    guest = a_guest(bench)
    read = a_read(guest)
    flags = [0, WRITE, WRITE]
    rows = b"".join(
        struct.pack("<QIHH", buffer.address, buffer.length, 0xFFFF, flag | NEXT | AVAIL | USED)
        for buffer, flag in zip(read.chain, flags, strict=True)
    )
    descriptor(guest, 0, guest.put(rows), 48, 0, AVAIL | INDIRECT)
    guest.kick()
    assert guest.status(read) == OK


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_read_into_the_ring_itself_harms_only_the_guest(bench: MakeBench, part: int) -> None:
    """Into its descriptors and both event suppression structures: 4.4."""
    guest = a_guest(bench)
    with guest.bench.survives():
        read = a_read(guest)
        read.chain[1] = Buffer(guest.packed.addresses[part], 512, True)
        guest.send(read.chain)
        assert guest.status(read) in (OK, NO_ANSWER)


# -- the queue alone -------------------------------------------------------------------------------


class Alone:
    """A packed queue and its driver, no device between them."""

    def __init__(self, size: int, *, event_idx: bool, position: int | None = None) -> None:
        memory = GuestMemory.of_size(1 << 16)
        self.driver = PackedDriverRing(Arena(memory, 0, 1 << 16), size, event_idx=event_idx)
        self.signals = 0
        addresses = RingAddresses(*self.driver.addresses)
        setup = QueueSetup(memory, size, addresses, self._signal, position)
        self.queue = PackedQueue(setup, event_idx=event_idx)

    def _signal(self) -> None:
        self.signals += 1

    def serve(self) -> Iterator[int]:
        for head, _ in self.queue.chains():
            self.queue.push(head, 1)
            yield head

    def signalled(self) -> bool:
        before = self.signals
        self.queue.publish()
        return self.signals > before


@pytest.mark.parametrize("size", [4, 7])
def test_an_interrupt_comes_exactly_when_the_batch_passes_the_event(size: int) -> None:
    """Section 2.8.10, every start, every batch and every event, in and out of the batch."""
    for start in range(2 * size):
        for batch in range(1, size + 1):
            for event in range(2 * size):
                alone = Alone(size, event_idx=True)
                alone.driver.driver[1] = 1  # no interrupts yet
                for _ in range(start):
                    alone.driver.add([Buffer(0, 1, True)])
                    assert list(alone.serve())
                    alone.queue.publish()
                    list(alone.driver.take())
                for _ in range(batch):
                    alone.driver.add([Buffer(0, 1, True)])
                assert len(list(alone.serve())) == batch
                wrap = 1 if event < size else 0
                alone.driver.driver[0] = event % size | wrap << 15
                alone.driver.driver[1] = 2
                # Positions on a circle of two laps, seen from where the batch began.
                passed = (event - start) % (2 * size) < batch
                assert alone.signalled() == passed, (start, batch, event)


@pytest.mark.parametrize("reserved", [0, 4, 0xFFFC])
def test_reserved_bits_of_event_suppression_are_ignored(reserved: int) -> None:
    for wish, expected in ((0, True), (1, False)):
        alone = Alone(8, event_idx=True)
        alone.driver.driver[1] = wish | reserved
        alone.driver.add([Buffer(0, 1, True)])
        assert list(alone.serve())
        assert alone.signalled() is expected


def test_the_queue_asks_for_kicks_where_it_stands() -> None:
    alone = Alone(5, event_idx=True)
    for _ in range(12):
        assert alone.queue.arm()
        assert alone.driver.kick_wanted() is False
        alone.driver.add([Buffer(0, 1, True)])
        assert alone.driver.kick_wanted() is True
        assert not alone.queue.arm()
        alone.queue.disarm()
        assert len(list(alone.serve())) == 1
        alone.queue.publish()
        assert len(list(alone.driver.take())) == 1


@pytest.mark.parametrize("size", [3, 8])
def test_a_queue_goes_on_where_another_stopped(size: int) -> None:
    """`position` says it all, on every place of two laps."""
    for steps in range(2 * size):
        alone = Alone(size, event_idx=False)
        for _ in range(steps):
            alone.driver.add([Buffer(0, 1, True)])
            list(alone.serve())
            alone.queue.publish()
            list(alone.driver.take())
        old = alone.queue
        addresses = RingAddresses(*alone.driver.addresses)
        setup = QueueSetup(old.memory, size, addresses, alone._signal, old.position)
        alone.queue = PackedQueue(setup, event_idx=False)
        alone.driver.add([Buffer(0, 1, True), Buffer(0, 1, True)])
        assert len(list(alone.serve())) == 1
        alone.queue.publish()
        assert len(list(alone.driver.take())) == 1


@pytest.mark.parametrize("position", [8, 0x7FFF, 8 << 16, 0xFFFFFFFF])
def test_a_position_outside_the_ring_is_refused(position: int) -> None:
    with pytest.raises(RingError):
        Alone(8, event_idx=False, position=position)


@pytest.mark.parametrize("size", [0, 32769, -1])
def test_an_impossible_size_is_refused(size: int) -> None:
    memory = GuestMemory.of_size(1 << 12)
    setup = QueueSetup(memory, size, RingAddresses(0, 0, 0), lambda: None)
    with pytest.raises(RingError):
        PackedQueue(setup, event_idx=False)


def test_a_batch_appears_whole_to_a_driver_that_polls() -> None:
    """The first used descriptor is stored last."""
    alone = Alone(8, event_idx=False)
    tokens = [alone.driver.add([Buffer(0, 1, True)]) for _ in range(5)]
    assert list(alone.serve()) == tokens
    assert not list(alone.driver.take())
    alone.queue.publish()
    assert [token for token, _ in alone.driver.take()] == tokens
