"""Region tables of every malformation: hostile.md 2.2, 4.2 and 4.4, SFF-8038i, QEMU's ide-test."""

from __future__ import annotations

import logging
import random
import struct

import pytest

from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import FlippingMemory, PuppetDisk

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    ACTIVE,
    BLOCK,
    BSY,
    CANARY,
    DATA,
    DF,
    DISK_SECTORS,
    DRDY,
    DRQ,
    ERR,
    ERROR,
    IDNF,
    INTERRUPT,
    LBA,
    PACKET,
    READ_DMA,
    READ_DMA_EXT,
    REST,
    SECTOR,
    START,
    TABLE,
    TO_MEMORY,
    TRIM,
    WRITE_DMA,
    WRITE_DMA_EXT,
    Guest,
    ata,
    atapi,
    contents,
    filled,
    pattern,
    scattered,
)

IMAGE = pattern(DISK_SECTORS * SECTOR)
SMALL_RAM = 0x40000


def make(make_bench: MakeBench, engine: Engine, memory: GuestMemory | None = None) -> Guest:
    memory = memory or GuestMemory.of_size(SMALL_RAM)
    guest = Guest(make_bench({(0, 0): ata(engine)}, memory=memory))
    guest.lay_canaries()
    return guest


def image(guest: Guest) -> bytes:
    drive = guest.channel.drives[0]
    return contents(drive.disk)  # type: ignore[union-attr]


def effective(regions: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Bit 0 of either is not there, and 0 bytes are 65536 (SFF-8038i section 1.2)."""
    return [(base & ~1, size & 0xFFFE or 0x10000) for base, size in regions]


def send(guest: Guest, opcode: int, lba: int, count: int, regions: list[tuple[int, int]]) -> int:
    """A request in the order QEMU's ide-test makes one, with what it asserts on the way."""
    to_memory = opcode in (READ_DMA, READ_DMA_EXT, PACKET)
    guest.set(6, LBA)
    guest.bench.outb(guest.bm, 0)
    guest.bench.outb(guest.bm + 2, INTERRUPT)
    guest.table(regions)
    guest.bench.outl(guest.bm + 4, TABLE)
    if opcode == PACKET:
        guest.set(1, 1)
    else:
        guest.set(1, opcode == TRIM)
        for register, value in ((2, count), (3, lba), (4, lba >> 8), (5, lba >> 16)):
            guest.set(register, value & 0xFF)
    guest.set(7, opcode)
    if opcode == PACKET:
        guest.write(struct.pack(">BBIBHB2x", 0x28, 0, lba, 0, count, 0))
    guest.bench.outb(guest.bm, START | (TO_MEMORY if to_memory else 0))
    for _ in range(100):
        status = guest.bench.inb(guest.bm + 2)
        if status & (ACTIVE | INTERRUPT) != ACTIVE:
            break
        guest.settle()
    else:
        raise AssertionError("it stays active")
    assert guest.irq == bool(status & INTERRUPT)
    assert guest.status & DRDY
    assert not guest.status & (BSY | DRQ)
    assert not guest.irq
    if status & ACTIVE:
        guest.bench.outb(guest.bm, 0)
    return status


def test_hostile_2_2_qemu_ide_test_various_prdts(make_bench: MakeBench, engine: Engine) -> None:
    """Shorter than the transfer: nothing; as long: interrupt; longer: interrupt, and still active.

    The same again, stopped as soon as it has been started.
    """
    guest = make(make_bench, engine)
    for sectors in (1, 2, 8, 64, 256):
        for size in (0, 2, 256, 510, 512, 513, 514, 1024, 4096, 0x7FFE, 0x8000, 0xFFFE, 0xFFFF):
            room = size & 0xFFFE or 0x10000
            wanted = sectors * 512
            expected = ACTIVE | INTERRUPT if room > wanted else INTERRUPT if room == wanted else 0
            status = send(guest, READ_DMA, 0, sectors, [(DATA, size)])
            assert status == expected, (sectors, size)
            assert not guest.status & (DF | ERR)
            guest.stop()
            guest.command(READ_DMA, 0, sectors)
            guest.bench.outb(guest.bm, START | TO_MEMORY)
            guest.bench.outb(guest.bm, 0)
            assert guest.bm_status & ACTIVE == 0
            assert guest.status == REST


def test_hostile_2_2_qemu_ide_test_simple_rw(make_bench: MakeBench, engine: Engine) -> None:
    guest = make(make_bench, engine)
    for sector, byte in ((0, 0x55), (1, 0xAA)):
        guest.poke(DATA, bytes([byte]) * 512)
        assert send(guest, WRITE_DMA, sector, 1, [(DATA, 512)]) == INTERRUPT
        assert not guest.status & (DF | ERR)
    for sector, byte in ((0, 0x55), (1, 0xAA)):
        assert send(guest, READ_DMA, sector, 1, [(DATA, 512)]) == INTERRUPT
        assert guest.peek(DATA, 512) == bytes([byte]) * 512


def test_hostile_2_2_qemu_ide_test_trim(make_bench: MakeBench, engine: Engine) -> None:
    guest = make(make_bench, engine)
    good = struct.pack("<QQ", 2 << 48 | 0, 8 << 48 | 6).ljust(512, b"\0")
    guest.poke(DATA, good)
    assert send(guest, TRIM, 0, 1, [(DATA, 512)]) == INTERRUPT
    assert not guest.status & (DF | ERR)
    expected = bytes(1024) + IMAGE[1024:3072] + bytes(4096) + IMAGE[7168:]
    assert image(guest) == expected
    bad = struct.pack("<QQ", 1 << 48 | 20, 2 << 48 | DISK_SECTORS - 1).ljust(512, b"\0")
    guest.poke(DATA, bad)
    assert send(guest, TRIM, 0, 1, [(DATA, 512)]) == INTERRUPT
    assert guest.status & ERR
    assert guest.error == ABRT | IDNF
    assert image(guest) == expected, "a range was trimmed though another is bad"


def test_hostile_2_2_qemu_ide_test_no_busmaster(make_bench: MakeBench, engine: Engine) -> None:
    """Active and Interrupt, no error, and memory is as it was."""
    guest = make(make_bench, engine)
    guest.bench.config_write(4, 2, 1)
    guest.poke(TABLE, bytes(8 * 4096))
    before = guest.ram()
    guest.command(READ_DMA, 0, 0)
    guest.start(to_memory=True)
    guest.settle()
    assert guest.bm_status == ACTIVE | INTERRUPT
    assert guest.status == REST
    assert guest.ram() == before
    guest.stop()
    guest.command(WRITE_DMA, 0, 0)  # nothing is made up for the disk
    guest.start(to_memory=False)
    guest.settle()
    assert guest.bm_status == ERROR
    assert not guest.status & (BSY | DRQ)
    assert image(guest) == IMAGE
    guest.bench.config_write(4, 2, 5)
    guest.check_usable()


def test_hostile_2_2_qemu_ide_test_cdrom_dma(make_bench: MakeBench, engine: Engine) -> None:
    guest = Guest(make_bench({(0, 0): atapi(engine)}))
    assert send(guest, PACKET, 3, 2, [(DATA, 2 * BLOCK)]) == INTERRUPT
    assert guest.peek(DATA, 2 * BLOCK) == pattern(64 * BLOCK, 2)[3 * BLOCK : 5 * BLOCK]
    assert send(guest, PACKET, 3, 2, [(DATA, BLOCK + 2)]) == 0
    assert send(guest, PACKET, 3, 2, [(DATA, 0)]) == ACTIVE | INTERRUPT


def test_hostile_2_2_qemu_work_item_2777(make_bench: MakeBench, engine: Engine) -> None:
    """A table that describes less than a sector, an odd number, or not as much as the command."""
    guest = make(make_bench, engine)
    for opcode in (READ_DMA, WRITE_DMA):
        for sizes in ((2,), (1,), (511,), (513,), (510, 1), (2, 2, 2), (512, 2), (1, 0)):
            regions = [(DATA + 0x1000 * n, size) for n, size in enumerate(sizes)]
            for count in (1, 2, 3, 0):
                status = guest.dma(opcode, regions, 0, count)
                room = sum(size for _, size in effective(regions))
                wanted = (count or 256) * 512
                expected = {1: ACTIVE | INTERRUPT, 0: INTERRUPT, -1: 0}
                assert status == expected[(room > wanted) - (room < wanted)], (sizes, count)
                assert guest.status == REST
    guest.check_usable()


def test_hostile_2_2_cve_2014_9718_no_whole_sector_in_the_table(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Regions of 2 bytes that never make a sector: it ends, and nothing was moved."""
    guest = make(make_bench, engine)
    before = guest.ram()[0x4000:]
    for opcode in (READ_DMA, WRITE_DMA):
        assert guest.dma(opcode, [(DATA, 2)] * 255, 0, 4) == 0
        assert guest.status == REST
    assert guest.ram()[0x4000:] == before
    assert image(guest) == IMAGE


@pytest.mark.parametrize("seed", range(8))
def test_hostile_4_2_random_tables_move_exactly_what_they_say(
    make_bench: MakeBench, engine: Engine, seed: int
) -> None:
    """Zero, odd, tiny, overlapping and scattered regions, no end mark: as a simple model says."""
    chance = random.Random(seed)
    guest = make(make_bench, engine)
    for _ in range(40):
        guest.lay_canaries()
        sizes = [chance.choice((1, 2, 511, 512, 513, 514, 1024, 4096)) for _ in range(20)]
        if not chance.randrange(3):
            sizes[chance.randrange(20)] = 0
        regions = [(chance.randrange(DATA, SMALL_RAM - 0x10000), size) for size in sizes]
        regions = regions[: chance.randrange(1, 21)]
        count, lba = chance.randrange(1, 24), chance.randrange(DISK_SECTORS - 24)
        inward = chance.random() < 0.5
        if not inward:
            guest.poke(DATA, chance.randbytes(SMALL_RAM - DATA))
        guest.table(regions)
        memory, disk = bytearray(guest.ram()), bytearray(image(guest))
        room = sum(size for _, size in effective(regions))
        moved = min(count * 512, room - room % 512)
        at = lba * 512
        for base, size in effective(regions):
            part = min(size, moved)
            if inward:
                memory[base : base + part] = disk[at : at + part]
            else:
                disk[at : at + part] = memory[base : base + part]
            at, moved = at + part, moved - part
        opcode = READ_DMA if inward else WRITE_DMA
        status = guest.dma(opcode, regions, lba, count)
        expected = {1: ACTIVE | INTERRUPT, 0: INTERRUPT, -1: 0}
        assert status == expected[(room > count * 512) - (room < count * 512)]
        assert guest.status == REST
        assert guest.ram() == memory
        assert image(guest) == disk


def test_hostile_4_2_a_table_without_an_end_is_followed_for_64_kib(
    make_bench: MakeBench, engine: Engine
) -> None:
    """65536 regions of 2 bytes: 8192 of them are a table (SFF-8038i section 1.2)."""
    guest = make(make_bench, engine, GuestMemory.of_size(1 << 20))
    table, data = 0x40000, 0x20000
    guest.table([(data, 2)] * 65536, at=table, end=False)
    guest.command(READ_DMA_EXT, 0, 64, ext=True)
    guest.start(to_memory=True, table=table)
    guest.settle()
    assert guest.bm_status == ERROR
    assert guest.status == REST
    assert not guest.irq
    guest.command(READ_DMA_EXT, 0, 32, ext=True)  # just what it takes
    guest.start(to_memory=True, table=table)
    guest.settle()
    assert guest.bm_status == ACTIVE | INTERRUPT
    guest.check_usable()


def test_hostile_4_2_a_table_may_lie_anywhere_in_ram(make_bench: MakeBench, engine: Engine) -> None:
    """Across 64 KiB, at the end of RAM, at address 0, at odd addresses (which are not there)."""
    guest = make(make_bench, engine)
    end = SMALL_RAM
    for table in (0, 4, 0xFFFC, 0xFFF8, 0x1FFF4, end - 16):
        for low in range(4):
            guest.lay_canaries()
            guest.table([(0x8000, 512), (0x9000, 512)], at=table)
            guest.command(READ_DMA, 10, 2)
            guest.start(to_memory=True, table=table | low)
            guest.settle()
            assert guest.bm_status == INTERRUPT, (hex(table), low)
            assert guest.peek(0x8000, 512) == IMAGE[5120:5632]
            assert guest.peek(0x9000, 512) == IMAGE[5632:6144]
            guest.stop()


@pytest.mark.parametrize(
    "table",
    [SMALL_RAM - 8, SMALL_RAM - 4, SMALL_RAM, 0x80000000, 0xFEE00000, 0xFFFFFFF8, 0xFFFFFFFF],
)
def test_hostile_4_2_a_table_that_leaves_ram_is_an_error(
    make_bench: MakeBench, engine: Engine, table: int
) -> None:
    """The Error bit is set, no interrupt, the command is over, nothing of this part was moved."""
    guest = make(make_bench, engine)
    if table == SMALL_RAM - 8:
        guest.table([(DATA, 512)], at=table, end=False)
    before = guest.ram()
    for opcode in (READ_DMA, WRITE_DMA):
        guest.command(opcode, 0, 2)
        guest.start(opcode == READ_DMA, table=table)
        guest.settle()
        assert guest.bm_status == ERROR
        assert guest.status == REST
        assert not guest.irq
        assert guest.ram() == before
        assert image(guest) == IMAGE
        guest.bench.outb(guest.bm + 2, ERROR)
        assert guest.bm_status == 0
        guest.stop()
    guest.check_usable()


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (SMALL_RAM - 510, 512),
        (SMALL_RAM - 2, 0),
        (SMALL_RAM, 512),
        (0xC000, 512),  # of the hole in `places`
        (0xBF00, 512),
        (0xFFFFFFFE, 512),
        (0xFFFF0000, 0),
        (0xFEC00000, 2),
    ],
)
def test_hostile_4_2_regions_that_are_not_ram(
    make_bench: MakeBench, engine: Engine, base: int, size: int
) -> None:
    """In a hole, past the end, at the end of 32 bits, at other devices' registers."""
    memory = scattered((0, 0xC000), (0x10000, SMALL_RAM - 0x10000))
    guest = make(make_bench, engine, memory)
    for opcode in (READ_DMA, WRITE_DMA):
        for first in ([], [(DATA, 1024)]):
            guest.lay_canaries()
            status = guest.dma(opcode, [*first, (base, size)], 0, 3)
            assert status == ERROR, (hex(base), size)
            assert guest.status == REST
            canaries = bytes([CANARY]) * 512
            assert guest.peek(0xBE00, 512) == canaries
            assert guest.peek(SMALL_RAM - 1024, 512) == canaries
    assert image(guest)[1536:] == IMAGE[1536:]
    guest.check_usable()


def test_hostile_4_2_regions_and_entries_straddle_adjoining_ram(
    make_bench: MakeBench, engine: Engine
) -> None:
    """Two regions that adjoin are as good as one, for a table's entries, too."""
    memory = scattered((0, 0x8000), (0x8000, 0x8000), (0x10000, 0x10000))
    guest = make(make_bench, engine, memory)
    guest.table([(0x7F00, 512), (0xFFFE, 512)], at=0x7FFC)
    guest.command(READ_DMA, 4, 2)
    guest.start(to_memory=True, table=0x7FFC)
    guest.settle()
    assert guest.bm_status == INTERRUPT
    table = struct.pack("<IHHIHH", 0x7F00, 512, 0, 0xFFFE, 512, 0x8000)
    expected = bytearray(guest.peek(0x7F00, 512))
    assert expected == IMAGE[2048:2560]  # over the table, which had been read
    assert table[:4] != expected[0xFC:0x100]
    assert guest.peek(0xFFFE, 512) == IMAGE[2560:3072]


def test_hostile_4_2_at_the_edge_of_4_gib(make_bench: MakeBench, engine: Engine) -> None:
    """RAM up to 4 GiB is used to its last byte; nothing wraps to address 0."""
    top = 1 << 32
    guest = make(make_bench, engine, scattered((0, 0x20000), (top - 0x20000, 0x20000)))
    assert guest.dma(READ_DMA, [(top - 512, 512)], 3, 1) == INTERRUPT
    assert guest.peek(top - 512, 512) == IMAGE[1536:2048]
    before = guest.peek(0x2000, 0x10000)
    assert guest.dma(READ_DMA, [(top - 512, 1024)], 3, 2) == ERROR
    assert guest.peek(0x2000, 0x10000) == before
    guest.table([(DATA, 512)], at=top - 8)
    guest.command(READ_DMA, 1, 1)
    guest.start(to_memory=True, table=top - 8)
    assert guest.bm_status == INTERRUPT
    guest.table([(DATA, 512)], at=top - 8, end=False)
    guest.command(READ_DMA, 1, 2)
    guest.start(to_memory=True, table=top - 8)
    assert guest.bm_status == ERROR
    guest.check_usable()


def test_hostile_4_4_data_over_the_table_itself(make_bench: MakeBench, engine: Engine) -> None:
    """The data becomes the table: what has been fetched counts, and it ends."""
    guest = make(make_bench, engine)
    evil = struct.pack("<IHH", TABLE, 8, 0) * 64  # regions that point at the table, for ever
    drive = guest.channel.drives[0]
    guest.poke(DATA, evil * 256)
    assert guest.dma(WRITE_DMA, [(DATA, 0)], 0, 128) == INTERRUPT
    for size in (2, 8, 512, 0):
        guest.lay_canaries()
        guest.command(READ_DMA, 0, 0)
        guest.table([(TABLE, size)] * 512, end=False)
        guest.start(to_memory=True)
        guest.settle()
        assert guest.bm_status & ~ACTIVE in (0, ERROR, INTERRUPT)
        assert not guest.status & (BSY | DRQ)
        guest.stop()
    assert drive is not None
    assert not drive.busy


def test_hostile_4_4_two_channels_with_one_table(make_bench: MakeBench, engine: Engine) -> None:
    """Each drive's data goes over the other's table, while both are at work."""
    puppets = [PuppetDisk(filled(DISK_SECTORS * SECTOR, seed=n)) for n in (1, 2)]
    drives = {(n, 0): ata(engine, puppet) for n, puppet in enumerate(puppets)}
    bench = make_bench(drives, memory=GuestMemory.of_size(SMALL_RAM))
    guests = [Guest(bench, 0), Guest(bench, 1)]
    tables = (TABLE, TABLE + 0x1000)
    for guest, table, other in zip(guests, tables, reversed(tables), strict=True):
        guest.table([(other, 2)] * 512, at=table, end=False)
        guest.command(READ_DMA_EXT, 0, 32, ext=True)
        guest.start(to_memory=True, table=table)
    for _ in range(200):
        for puppet in puppets:
            puppet.complete_all()
        guests[0].settle()
    for guest, puppet in zip(guests, puppets, strict=True):
        assert guest.bm_status & (ACTIVE | INTERRUPT) != ACTIVE
        assert not guest.status & (BSY | DRQ)
        puppet.holds = lambda name, sector, count: False
        guest.check_usable()


def test_hostile_4_3_each_entry_is_read_once(make_bench: MakeBench, engine: Engine) -> None:
    """A guest that changes its table between any two looks of ours."""
    memory = FlippingMemory.of_size(SMALL_RAM)
    memory.armed = False
    guest = make(make_bench, engine, memory)
    regions = [(DATA, 512), (DATA + 0x1000, 512), (DATA + 0x2000, 512)]
    others = [(DATA + 0x8000, 1024), (0xFFFFFFFE, 0), (DATA + 0x9000, 2)]
    guest.table(regions)
    first = guest.peek(TABLE, 24)
    guest.table(others)
    second = guest.peek(TABLE, 24)
    watches = [
        memory.watch(TABLE + at, [first[at : at + 8], second[at : at + 8]]) for at in (0, 8, 16)
    ]
    for opcode in (READ_DMA, WRITE_DMA):
        for count in (1, 2, 3, 8):
            for watch in watches:
                watch.views = 0
            guest.command(opcode, 0, count)
            memory.armed = True
            guest.start(opcode == READ_DMA)
            guest.settle()
            memory.armed = False
            assert all(watch.views <= 1 for watch in watches)
            assert watches[0].views == 1
            assert not guest.status & (BSY | DRQ)
            guest.stop()
    guest.check_usable()


def test_hostile_4_2_parts_go_on_where_the_last_ended(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A table of thousands of regions is worked off in parts; a region may lie in two of them."""
    guest = make(make_bench, engine)
    regions = [(DATA + 40 * n, 38) for n in range(27)] + [(DATA + 0x2000, 512 * 60 - 26 * 38)]
    regions += [(DATA + 0xA000 + 2 * n, 2) for n in range(2048)]
    total = sum(size for _, size in regions)
    count = total // 512
    status = guest.dma(READ_DMA, regions, 0, count)
    assert status == (INTERRUPT if total == count * 512 else ACTIVE | INTERRUPT)
    got = b"".join(guest.peek(base, size) for base, size in regions)
    assert got[: count * 512] == IMAGE[: count * 512]


def test_hostile_2_2_a_command_that_waits_survives_the_stop_of_the_last_transfer(
    make_bench: MakeBench, engine: Engine
) -> None:
    """A driver that stops the bus master only once the next command has been given."""
    guest = make(make_bench, engine)
    for size in (512, 1024, 2):  # exact, long, short
        for opcode in (READ_DMA, WRITE_DMA):
            guest.table([(DATA, size)])
            guest.command(READ_DMA, 1, 1)
            guest.start(to_memory=True)
            guest.table([(DATA, 512)])
            if size != 1024:  # else it is still active, and goes on
                guest.command(opcode, 2, 1)
                assert guest.alternate & DRQ
                guest.start(opcode == READ_DMA)
                assert guest.bm_status == INTERRUPT
            assert not guest.status & (DRQ | ERR)
            guest.stop()


def test_hostile_4_2_the_direction_is_the_wrong_one(make_bench: MakeBench, engine: Engine) -> None:
    """Nothing moves: neither would a drive that holds the other end of the wire."""
    guest = make(make_bench, engine)
    before = guest.ram()[DATA:]
    guest.table([(DATA, 512)])
    for opcode in (READ_DMA, WRITE_DMA):
        guest.command(opcode)
        guest.start(opcode != READ_DMA)
        guest.settle()
        assert guest.bm_status == ACTIVE
        guest.bench.outb(guest.bm, START | (TO_MEMORY if opcode == READ_DMA else 0))
        guest.settle()  # it is locked while the bus master runs
        assert guest.bm_status == ACTIVE
        assert guest.alternate & DRQ
        guest.stop()
        assert guest.bm_status == 0
        assert guest.status == REST
    assert guest.ram()[DATA:] == before
    assert image(guest) == IMAGE
    guest.check_usable()


def test_hostile_2_2_bus_master_registers_during_and_between(
    make_bench: MakeBench, engine: Engine
) -> None:
    """The table's address is read and written in any widths; a second start restarts the table."""
    guest = make(make_bench, engine)
    for width, offset in ((4, 4), (2, 4), (2, 6), (1, 4), (1, 5), (1, 6), (1, 7)):
        guest.bench.outl(guest.bm + 4, 0)
        guest.bench.ports.write(guest.bm + offset, width, 0xFFFFFFFF)
        mask = ((1 << 8 * width) - 1) << 8 * (offset - 4)
        assert guest.bench.inl(guest.bm + 4) == mask & ~3
    guest.bench.outb(guest.bm + 2, 0xFF)
    assert guest.bench.inb(guest.bm + 2) == 0x60
    guest.table([(DATA, 512)])
    for _ in range(3):
        guest.lay_canaries()
        guest.table([(DATA, 512)])
        guest.command(READ_DMA, 2)
        guest.start(to_memory=True)
        assert guest.bm_status == INTERRUPT
        assert guest.peek(DATA, 512) == IMAGE[1024:1536]


def test_hostile_2_2_a_huge_command_and_a_short_table_cost_little(
    make_bench: MakeBench, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """65536 sectors announced, none of them moved; and the log does not fill."""
    caplog.set_level(logging.INFO, "drivebay")
    disk = filled(1 << 16)
    disk2 = ata(engine, disk)
    guest = Guest(make_bench({(0, 0): disk2}, memory=GuestMemory.of_size(SMALL_RAM)))
    for _ in range(300):
        guest.command(READ_DMA_EXT, 0, 128, ext=True)
        guest.start(to_memory=True, table=0x7FFFFFF0)
        assert guest.bm_status == ERROR
        guest.command(WRITE_DMA_EXT, 0, 128, ext=True)
        guest.start(to_memory=False, table=0x7FFFFFF0)
        assert guest.bm_status == ERROR
    assert len(caplog.records) < 30
