"""Rings: round trips, wraps, masks, pending send sizes, full in both directions."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.controllers.storvsp.packets import PacketType, parse
from drivebay.controllers.storvsp.protocol import Operation, ScsiPacket
from drivebay.controllers.storvsp.ring import Area, Control, Incoming, Outgoing
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.storvsc import GuestRing, StorVscChannel
from drivebay.drivers.storvsc.storvsc import direct
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.vmbus import PAGE, ChannelError, ChannelSetup
from drivebay.scsi.cdb import Read10
from drivebay.scsi.opcodes import Opcode
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, noise

from .support import Bench

READ = Read10(Opcode.READ_10, 0, 0, transfer_length=1).pack()
NOT_NOW = ScsiPacket(Operation.EVENT_NOTIFICATION).pack()
"""What is refused, with an answer of the largest size."""
LARGEST = 88


class Pair:
    """Both ends of a ring of one page of data each way, the guest's in pages as it likes."""

    def __init__(self, pages: int = 1) -> None:
        self.memory = GuestMemory.of_size(1 << 20)
        self.guest = GuestRing(Arena(self.memory, PAGE, 1 << 19), pages)
        split = self.guest.downstream
        self.incoming = Incoming(self.memory, self.guest.pages[:split])
        self.outgoing = Outgoing(self.memory, self.guest.pages[split:])


# -- memory --------------------------------------------------------------------------------------


@given(
    numbers=st.permutations(list(range(8))),
    start=st.integers(0, 5 * PAGE - 1),
    length=st.integers(0, 5 * PAGE),
)
def test_the_pages_of_a_ring_may_lie_anywhere(numbers: list[int], start: int, length: int) -> None:
    halves = [
        Region(0, memoryview(bytearray(4 * PAGE))),
        Region(4 * PAGE, memoryview(bytearray(4 * PAGE))),
    ]
    memory = GuestMemory(halves)
    pages = numbers[:5]
    area = Area(memory, pages)
    data = noise(length, 3)
    area.write(start, data)
    assert area.read(start, length) == data
    flat = b"".join(bytes(memory.view(page * PAGE, PAGE)) for page in pages)
    twice = flat + flat
    assert twice[start : start + length] == data
    assert sum(map(len, (view for _, view in area._pieces))) == 5 * PAGE


@pytest.mark.parametrize(
    ("pages", "downstream"),
    [((), 0), ((1,), 1), ((1, 2), 1), ((1, 2, 3), 1), ((1, 2, 3), 2), ((1, 2, 3, 4), 4),
     ((1, 2, 3, 4), 0), ((1, 2, 3, 4), 9), ((1, 2, 3, 1 << 40), 2), ((1 << 63, 2, 3, 4), 2)],
)  # fmt: skip
def test_rings_that_cannot_be(pages: tuple[int, ...], downstream: int) -> None:
    bench = Bench()
    channel = bench.device.channels[0]
    with pytest.raises(ChannelError):
        channel.open(ChannelSetup(bench.memory, pages, downstream, lambda: None))
    channel.open(ChannelSetup(bench.memory, (1, 2, 3, 4), 2, lambda: None))


def test_the_control_page() -> None:
    assert [at.offset for at in Control.registers.values()] == [0, 4, 8, 12, 64]


# -- packets -------------------------------------------------------------------------------------

kinds = st.sampled_from([PacketType.IN_BAND, PacketType.GPA_DIRECT])


@given(
    packets=st.lists(
        st.tuples(st.binary(max_size=300), st.integers(0, 20000), st.integers(0, 4095)),
        max_size=60,
    ),
    taken=st.lists(st.integers(1, 9)),
)
def test_round_trips_wrap_anywhere(packets: list[tuple[bytes, int, int]], taken: list[int]) -> None:
    pair = Pair()
    sent: list[tuple[bytes, bytes]] = []

    def take() -> None:
        data = pair.incoming.take()
        if data is not None:
            packet = parse(data)
            payload, header = sent.pop(0)
            assert packet.payload == payload + bytes(-len(payload) % 8)
            if header:
                ((length, offset, pages),) = packet.ranges
                assert direct(pages[0] * PAGE + offset, length) == header if pages else not length

    for n, (payload, length, offset) in enumerate(packets):
        header = direct(5 * PAGE + offset, length) if n % 2 else b""
        kind = PacketType.GPA_DIRECT if header else PacketType.IN_BAND
        while True:
            try:
                pair.guest.send(kind, n, payload, header)
            except BlockingIOError:
                take()
                pair.incoming.release()
            else:
                break
        sent.append((payload, header))
        for _ in range(taken[n % len(taken)] % 3 if taken else 0):
            take()
        pair.incoming.release()
    while sent:
        take()
    assert pair.incoming.take() is None


def test_the_hosts_packets_wrap_too() -> None:
    pair = Pair()
    received = []
    for n in range(500):
        payload = noise(n % 90, n)
        while pair.outgoing.free < 24 + 96:
            pair.outgoing.publish()
            received += pair.guest.receive()[0]
        pair.outgoing.put(PacketType.COMPLETION, 0, n, payload)
    pair.outgoing.publish()
    received += pair.guest.receive()[0]
    assert [packet.transaction for packet in received] == list(range(500))
    for n, packet in enumerate(received):
        assert packet.payload == noise(n % 90, n) + bytes(-(n % 90) % 8)


def test_a_packet_larger_than_what_is_copied_at_once() -> None:
    pair = Pair(pages=16)
    payload = noise(40000, 1)
    pair.guest.send(PacketType.IN_BAND, 1, payload)
    pair.guest.send(PacketType.IN_BAND, 2, b"next")
    first, second = pair.incoming.take(), pair.incoming.take()
    assert first is not None
    assert second is not None
    assert parse(first).payload == payload
    assert parse(second).payload == b"next" + bytes(4)


def test_section_13_1_a_slot_stays_free() -> None:
    pair = Pair()
    pair.guest.send(PacketType.IN_BAND, 1, bytes(PAGE - 8 - 24))
    assert pair.guest.room() == 0
    taken = pair.incoming.take()
    assert taken is not None
    assert len(taken) == PAGE - 16
    assert pair.incoming.take() is None


# -- signals (section 13.3) ----------------------------------------------------------------------


def test_interrupt_mask() -> None:
    pair = Pair()
    pair.incoming.mask()
    assert not pair.guest.send(PacketType.IN_BAND, 1, b"")
    pair.incoming.take()
    assert not pair.incoming.release()
    assert pair.incoming.unmask()
    assert pair.guest.send(PacketType.IN_BAND, 2, b"")
    assert not pair.guest.send(PacketType.IN_BAND, 3, b""), "it is not empty"
    assert not pair.incoming.unmask(), "there is more"
    pair.outgoing.put(PacketType.COMPLETION, 0, 1, b"")
    assert pair.outgoing.publish()
    assert not pair.outgoing.publish()
    pair.outgoing.put(PacketType.COMPLETION, 0, 2, b"")
    assert not pair.outgoing.publish()
    pair.guest.receive()
    pair.guest.mask()
    pair.outgoing.put(PacketType.COMPLETION, 0, 3, b"")
    assert not pair.outgoing.publish()
    assert not pair.guest.unmask()


@pytest.mark.parametrize("size", [104, 105, 111])
def test_pending_send_size(size: int) -> None:
    pair = Pair()
    while pair.guest.room() >= 48:
        pair.guest.send(PacketType.IN_BAND, 1, bytes(24))
    assert pair.guest.room() < 48
    pair.guest.to_host[3] = size  # the low bits do not count
    crossed = []
    for _ in range(4):
        pair.incoming.take()
        crossed.append(pair.incoming.release())
    assert crossed.count(True) == 1, "once, when it is crossed"
    assert pair.guest.room() >= 104
    pair.guest.to_host[3] = 0
    assert not any(pair.incoming.take() and pair.incoming.release() for _ in range(9))


def test_the_host_waits_for_room() -> None:
    pair = Pair()
    while pair.outgoing.free >= LARGEST:
        pair.outgoing.put(PacketType.COMPLETION, 0, 1, bytes(64))
    pair.outgoing.publish()
    assert not pair.outgoing.has_room(LARGEST)
    assert pair.guest.from_host[3] == LARGEST
    _, wanted = pair.guest.receive()
    assert wanted
    assert pair.outgoing.has_room(LARGEST)
    assert pair.guest.from_host[3] == 0


# -- a controller whose rings are full -----------------------------------------------------------


FITS = (PAGE - 8) // LARGEST


def fill_answers(channel: StorVscChannel) -> None:
    """Fill the ring to the guest with answers, and ask for ten more."""
    ring = channel.ring
    for n in range(FITS + 10):
        if ring.send(PacketType.IN_BAND, n, NOT_NOW):
            channel.kick()


def test_a_full_ring_to_the_guest_stops_intake_and_room_starts_it() -> None:
    bench = Bench()
    channel = StorVscChannel(bench.guest, bench.offer(), GuestRing(bench.arena, 1))
    ring = channel.ring
    fill_answers(channel)
    bench.settle()
    assert ring.from_host[0] == LARGEST * FITS
    assert ring.from_host[3] == LARGEST, "the host waits for room"
    assert ring.to_host[1] == LARGEST * FITS % PAGE, "and takes nothing"
    channel.kick()
    bench.settle()
    assert ring.to_host[1] == LARGEST * FITS % PAGE
    assert not bench.engine._posted, "nor is it busy"
    received, wanted = ring.receive()
    assert [packet.transaction for packet in received] == list(range(FITS))
    assert wanted
    channel.kick()
    received, wanted = ring.receive()
    assert [packet.transaction for packet in received] == list(range(FITS, FITS + 10))
    assert not wanted


def test_a_guest_that_does_not_tell_of_room_is_looked_after() -> None:
    bench = Bench()
    offer, ring = bench.offer(), GuestRing(bench.arena, 1)
    ring.from_host[16] = 0
    ring.reset = lambda: None  # type: ignore[method-assign]
    channel = StorVscChannel(bench.guest, offer, ring)
    fill_answers(channel)
    bench.settle()
    assert len(ring.receive()[0]) == FITS
    late: list[int] = []

    def all_came() -> bool:
        late.extend(each.transaction for each in ring.receive()[0])
        return len(late) == 10

    bench.wait(all_came)
    assert late == list(range(FITS, FITS + 10))


def test_a_full_ring_to_the_host_and_slow_disks() -> None:
    """More commands than there may be under way: the rest waits in the ring, then in the guest."""
    disk = RamDisk(1 << 20)
    data = fill(disk)
    puppet = PuppetDisk(disk)
    bench = Bench({0: puppet}, depth=8)
    driver = bench.driver(pages=1, slots=1)
    ring, packet = driver.channel.ring, driver.packet(READ, 512)
    header = direct(driver.buffers[0], 512)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            if ring.send(PacketType.GPA_DIRECT, sent + 1000, packet, header):
                driver.channel.kick()
            sent += 1
            bench.settle()
    assert len(puppet.held) == 8
    assert sent > 40
    ended = 0
    while ended < sent:
        assert len(puppet.held) == min(8, sent - ended)
        puppet.held[-1].complete()
        bench.settle()
        received, wanted = ring.receive()
        ended += len(received)
        if wanted:
            driver.channel.kick()
    assert driver.got(512) == data[:512]


def test_completions_of_a_turn_are_one_signal() -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = Bench({0: puppet})
    driver = bench.driver(slots=4)
    sent = [driver.start(READ, 512, slot=slot) for slot in range(4)]
    bench.settle()
    assert driver.channel.ring.unmask()
    bench.signals.clear()
    puppet.complete_all()
    bench.settle()
    assert len(bench.signals) == 1
    assert [ended.status for ended in driver.finish(sent)] == [0] * 4


def test_a_guest_that_wants_no_interrupts_gets_none() -> None:
    bench = Bench()
    offer = bench.offer()
    ring = GuestRing(bench.arena, 1)
    gpadl = bench.guest.share(offer.channel_id, ring.pages)
    bench.guest.open(offer.channel_id, gpadl, ring.downstream, target_vp=0xFFFFFFFF)
    ring.send(PacketType.IN_BAND, 1, struct.pack("<III", Operation.BEGIN_INITIALIZATION, 0, 0))
    bench.guest.signal(offer.connection_id)
    bench.settle()
    assert len(ring.receive()[0]) == 1
    assert bench.signals == []
