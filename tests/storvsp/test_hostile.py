"""Guests that break the rules: hostile.md sections 2.7 and 4, the lines of VMBus rings.

Whatever breaks a rule of the ring closes its channel, with one line of log; opened again, it works.
What is a well-formed packet with a wrong request in it has a status.
"""

from __future__ import annotations

import logging
import random
import struct

import pytest

from drivebay.controllers.storvsp.packets import (
    Descriptor,
    GpaDirect,
    GpaRange,
    PacketType,
    TransferPages,
    TransferRange,
    parse,
)
from drivebay.controllers.storvsp.protocol import Header, Operation, ScsiPacket, SrbCode
from drivebay.controllers.storvsp.ring import Area
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.storvsc import StorVsc
from drivebay.drivers.storvsc.storvsc import direct
from drivebay.platform.vmbus import PAGE, ChannelError
from drivebay.scsi.cdb import Read10
from drivebay.scsi.opcodes import Opcode
from drivebay.testing import PuppetDisk
from tests.disk.support import fill, noise

from .support import RAM_SIZE, Bench

READ = Read10(Opcode.READ_10, 0, 0, transfer_length=1).pack()
TYPES = list(PacketType)


class Line:
    """A guest with a controller, some of whose packets are wrong."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.bench = Bench()
        self.driver = self.bench.driver(pages=2)
        self.log = caplog

    def send(self, packet: bytes) -> None:
        self.log.clear()
        self.driver.channel.ring.send_raw(packet)
        self.driver.channel.kick()
        self.bench.settle()

    def request(self, header: bytes, **fields: int) -> None:
        """A command in a GPA direct packet with this header."""
        length = fields.pop("data_length", 512)
        packet = self.driver.packet(READ, length, fields=fields)
        at, total = 16 + len(header), 16 + len(header) + len(packet)
        descriptor = Descriptor(PacketType.GPA_DIRECT, at // 8, total // 8, 1, 77)
        self.send(descriptor.pack() + header + packet)

    def closed(self) -> bool:
        """Whether the channel was closed; if so it said so once, and works when opened again."""
        lines = [record.getMessage() for record in self.log.records]
        works(self.driver, reopen=bool(lines))
        assert len(lines) <= 1, lines
        assert all("channel 0 is closed" in line for line in lines)
        return bool(lines)


def works(driver: StorVsc, *, reopen: bool) -> None:
    if reopen:
        sent = driver.channel.send(ScsiPacket(Operation.RESET_BUS).pack())
        for _ in range(5):
            driver.bus.poll()
        driver.channel.take()
        assert sent not in driver.channel.ended, "it is served no more"
        driver.channel.reopen()
        driver.negotiate()
    driver.channel.take()
    driver.channel.ended.clear()
    assert driver.luns() == [0]


@pytest.fixture
def line(caplog: pytest.LogCaptureFixture) -> Line:
    caplog.set_level(logging.WARNING, "drivebay")
    return Line(caplog)


# -- 2.7: packets --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*TYPES, 0, 5, 8, 10, 0xFFFF])
@pytest.mark.parametrize("header", range(33))
def test_every_header_length_of_each_type(kind: int, header: int, line: Line) -> None:
    """[S] 4386c390b: GPA direct packets need a header of 24 bytes, 16 were checked."""
    packet = Descriptor(kind, header, 40, 1, 7).pack().ljust(320, b"\0")
    line.send(packet)
    least = {PacketType.IN_BAND: 2, PacketType.COMPLETION: 2, PacketType.TRANSFER_PAGES: 3}
    # Zeroes are no operation of StorVSP, and no ranges.
    assert line.closed()
    if kind in least and least[PacketType(kind)] <= header < 33:
        assert len(parse(packet).payload) == 320 - 8 * header
    else:
        with pytest.raises(ChannelError):
            parse(packet)


@pytest.mark.parametrize("kind", TYPES)
def test_every_pair_of_lengths(kind: PacketType) -> None:
    for header in range(33):
        for total in range(2, 33):
            packet = Descriptor(kind, header, total, 1, 7).pack() + noise(512, header)
            try:
                parsed = parse(packet[: 8 * total])
            except ChannelError:
                continue
            assert len(parsed.payload) == 8 * (total - header)


@pytest.mark.parametrize("total", [0, 1, 0x8000, 0xFFFF])
def test_a_length_that_is_too_small_or_more_than_there_is(total: int, line: Line) -> None:
    line.send(Descriptor(PacketType.IN_BAND, 2, total, 1, 7).pack() + bytes(64))
    assert line.closed()


@pytest.mark.parametrize("flags", [2, 3, 0x8001, 0xFFFF])
def test_flags_that_nobody_knows(flags: int, line: Line) -> None:
    line.send(Descriptor(PacketType.IN_BAND, 2, 10, flags, 7).pack() + bytes(64))
    assert line.closed()


def test_a_packet_without_a_transaction(line: Line) -> None:
    line.send(Descriptor(PacketType.IN_BAND, 2, 10, 0, 7).pack() + ScsiPacket().pack())
    assert line.closed()


@pytest.mark.parametrize("operation", [0, 15, 0x80000003, 0xFFFFFFFF])
def test_an_unknown_operation(operation: int, line: Line) -> None:
    line.send(Descriptor(PacketType.IN_BAND, 2, 10, 1, 7).pack() + ScsiPacket(operation).pack())
    assert line.closed()


@pytest.mark.parametrize("size", range(0, 72, 8))
@pytest.mark.parametrize(
    "operation",
    [Operation.EXECUTE_SRB, Operation.RESET_LUN, Operation.RESET_BUS, Operation.QUERY_PROPERTIES],
)
def test_every_size_of_payload(size: int, operation: Operation, line: Line) -> None:
    payload = ScsiPacket(operation, cdb_length=6, data_in=2).pack()[:size].ljust(size, b"\0")
    descriptor = Descriptor(PacketType.IN_BAND, 2, 2 + size // 8, 1, 7)
    line.send(descriptor.pack() + payload)
    least = 48 if operation in (Operation.EXECUTE_SRB, Operation.RESET_LUN) else 12
    if size >= least:
        (packet,), _ = line.driver.channel.ring.receive()
        assert (packet.transaction, len(packet.payload)) == (7, min(size, 64))
    assert line.closed() == (size < least)


# -- 2.7: ranges ---------------------------------------------------------------------------------

ONE = struct.pack("<Q", 1)


@pytest.mark.parametrize("offset", [4096, 0xFFFFFFFF])
@pytest.mark.parametrize("length", [0, 1, 512, 0xFFFFFFFF])
def test_byte_offset_outside_the_page(offset: int, length: int, line: Line) -> None:
    """[S] 610a488b0."""
    line.request(GpaDirect(0, 1).pack() + GpaRange(length, offset).pack() + ONE)
    assert line.closed()


@pytest.mark.parametrize("count", [0, 2, 3, 0xFFFF, 0xFFFFFFFF])
def test_range_counts(count: int, line: Line) -> None:
    """[S] e5c5db184: none, or more than there are."""
    line.request(GpaDirect(0, count).pack() + GpaRange(512, 0).pack() + ONE)
    assert line.closed()


@pytest.mark.parametrize(("length", "offset"), [(4097, 0), (4096, 1), (2, 4095), (0xFFFFFFFF, 0)])
def test_a_list_of_pages_that_is_short(length: int, offset: int, line: Line) -> None:
    line.request(GpaDirect(0, 1).pack() + GpaRange(length, offset).pack() + ONE)
    assert line.closed()


def test_an_empty_range_is_no_memory(line: Line) -> None:
    line.request(GpaDirect(0, 1).pack() + GpaRange(0, 0).pack())
    assert line.closed()
    empty = GpaDirect(0, 1).pack() + GpaRange(0, 0).pack()
    line.request(empty, data_length=0, data_in=2)
    (packet,), _ = line.driver.channel.ring.receive()
    assert line.driver.ended(packet.payload).code == SrbCode.DATA_OVERRUN
    assert not line.closed()


def test_more_than_one_range(line: Line) -> None:
    line.request(GpaDirect(0, 2).pack() + 2 * (GpaRange(512, 0).pack() + ONE))
    assert line.closed()


@pytest.mark.parametrize("length", [513, 4096, 0xFFFFFFFF])
def test_more_data_than_the_range_has(length: int, line: Line) -> None:
    line.request(direct(line.driver.buffers[0], 512), data_length=length)
    assert line.closed()


@pytest.mark.parametrize("page", [RAM_SIZE // PAGE, 1 << 20, 1 << 51, (1 << 52) - 1, (1 << 64) - 1])
def test_pages_that_are_no_memory(page: int, line: Line) -> None:
    """A request whose memory is none fails; the next does not."""
    for pages in ([page], [1, page], [page, 1]):
        header = GpaDirect(0, 1).pack() + GpaRange(PAGE * len(pages), 0).pack()
        numbers = struct.pack(f"<{len(pages)}Q", *pages)
        line.request(header + numbers, data_length=PAGE * len(pages))
        (packet,), _ = line.driver.channel.ring.receive()
        assert line.driver.ended(packet.payload).code == SrbCode.INVALID_REQUEST
        assert not line.closed()


def test_transfer_pages_name_no_memory_of_the_guest(line: Line) -> None:
    """A range of 0xFFFFFFFF bytes at 0xFFFFFFFF: nothing is read there."""
    for count in (0, 1, 2):
        header = (
            TransferPages(1, 0, 0, count).pack() + count * TransferRange(~0 & 0xFFFFFFFF, 5).pack()
        )
        packet = line.driver.packet(bytes(6))
        at = 16 + len(header)
        descriptor = Descriptor(PacketType.TRANSFER_PAGES, at // 8, (at + 64) // 8, 1, 5)
        line.send(descriptor.pack() + header + packet)
        (answer,), _ = line.driver.channel.ring.receive()
        assert line.driver.ended(answer.payload).code == SrbCode.SUCCESS
        assert not line.closed()
    packet = line.driver.packet(READ, 512)
    header = TransferPages(1, 0, 0, 1).pack() + TransferRange(512, 0).pack()
    line.send(Descriptor(PacketType.TRANSFER_PAGES, 4, 12, 1, 5).pack() + header + packet)
    assert line.closed()


@pytest.mark.parametrize("count", [1, 2, 0x20000000, 0xFFFFFFFF])
def test_transfer_ranges_that_are_not_there(count: int, line: Line) -> None:
    header = TransferPages(1, 0, 0, count).pack()
    line.send(Descriptor(PacketType.TRANSFER_PAGES, 3, 11, 1, 5).pack() + header + bytes(64))
    assert line.closed()


# -- 4.5: rings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [1, 4, 7, 2 * PAGE, 2 * PAGE + 8, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("ring", ["to_host", "from_host"])
def test_indices_beyond_the_ring_or_misaligned(index: int, ring: str, line: Line) -> None:
    line.log.clear()
    ours = {"to_host": 0, "from_host": 1}[ring]
    getattr(line.driver.channel.ring, ring)[ours] = index
    line.driver.channel.kick()
    line.bench.settle()
    line.driver.channel.ring.reset()
    assert line.closed()


@pytest.mark.parametrize("ring", ["to_host", "from_host"])
def test_an_index_that_goes_back(ring: str, line: Line) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    line.bench = Bench({0: puppet}, depth=1)
    line.driver = line.bench.driver(pages=2, slots=2)
    for slot in range(2):
        line.driver.start(READ, 512, slot=slot, signal=False)
    line.driver.channel.kick()
    line.bench.settle()
    assert len(puppet.held) == 1, "one is taken, the other copied"
    control = getattr(line.driver.channel.ring, ring)
    ours = {"to_host": 0, "from_host": 1}[ring]
    control[ours] = (control[ours] - 56) % (2 * PAGE)
    line.log.clear()
    for _ in range(2):
        puppet.complete_all()
        line.driver.channel.kick()
        line.bench.settle()
    puppet.holds = lambda *_: False
    assert line.closed()


def test_what_is_left_of_the_ring_is_no_packet(line: Line) -> None:
    ring = line.driver.channel.ring
    ring.to_host[0] = (ring.to_host[0] + 16) % ring.size
    line.log.clear()
    line.driver.channel.kick()
    line.bench.settle()
    assert line.closed()


def test_transaction_ids_may_be_used_twice(line: Line) -> None:
    ring = line.driver.channel.ring
    header, packet = direct(line.driver.buffers[0], 512), line.driver.packet(READ, 512)
    for _ in range(3):
        ring.send(PacketType.GPA_DIRECT, 7, packet, header)
    line.driver.channel.kick()
    line.bench.settle()
    assert [each.transaction for each in ring.receive()[0]] == [7, 7, 7]


def test_a_ring_that_is_its_own_data(line: Line) -> None:
    """4.4: what is read goes over the rings themselves."""
    ring = line.driver.channel.ring
    size = 2 * PAGE * ring.downstream
    line.driver.buffers[0] = ring.address
    fill(line.bench.target.unit(0).disk)  # type: ignore[union-attr]
    line.log.clear()
    cdb = Read10(Opcode.READ_10, 0, 0, transfer_length=size // 512).pack()
    line.driver.start(cdb, size)
    line.bench.settle()
    ring.reset()
    line.driver.buffers[0] = line.bench.arena.take(1 << 16, PAGE)
    works(line.driver, reopen=True)


def test_garbage_in_the_ring_never_hurts() -> None:
    bench = Bench()
    driver = bench.driver(pages=1)
    source = random.Random(7)
    for _ in range(300):
        ring = driver.channel.ring
        memory = bench.memory.view(ring.address, 4 * PAGE)
        at = source.choice([0, 0, PAGE, 2 * PAGE]) + source.randrange(64)
        memory[at : at + 24] = source.randbytes(24)
        driver.channel.kick()
        bench.settle()
        if source.random() < 0.2:
            driver.channel.reopen()
    driver.channel.reopen()
    driver.negotiate()
    assert driver.luns() == [0]


# -- 4.3: memory that changes --------------------------------------------------------------------


def test_nothing_of_a_ring_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest changes what was read as soon as it was: the command is that of the first look."""
    disk = RamDisk(1 << 20)
    data = fill(disk)
    bench = Bench({0: disk})
    driver = bench.driver(pages=4, slots=8)
    read = Area.read
    seen: list[int] = []

    def flipping(area: Area, at: int, length: int) -> bytes:
        snapshot = read(area, at, length)
        if at + length <= area.size:
            seen.extend(range(at, at + length))
            area.write(at, bytes(byte ^ 0xFF for byte in snapshot))
        return snapshot

    monkeypatch.setattr(Area, "read", flipping)
    for round_ in range(40):
        seen.clear()
        sent = [
            driver.start(
                Read10(Opcode.READ_10, 0, 8 * round_ + slot, transfer_length=1).pack(),
                512,
                slot=slot,
                signal=slot == 7,
            )
            for slot in range(8)
        ]
        driver.channel.kick()
        assert [ended.status for ended in driver.finish(sent)] == [0] * 8
        assert len(seen) == len(set(seen)) == 8 * (16 + 24 + 64 + 8)
        for slot in range(8):
            assert driver.got(512, slot) == data[512 * (8 * round_ + slot) :][:512]


def test_a_packet_longer_than_the_first_look_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    driver = bench.driver(pages=16)
    seen: list[int] = []
    read = Area.read

    def counting(area: Area, at: int, length: int) -> bytes:
        if at + length <= area.size:
            seen.extend(range(at, at + length))
        return read(area, at, length)

    monkeypatch.setattr(Area, "read", counting)
    payload = (Header(Operation.RESET_BUS).pack()).ljust(40000, b"\0")
    assert len(driver.channel.wait([driver.channel.send(payload)])[0]) == 64
    assert len(seen) == len(set(seen)) == 40000 + 24
