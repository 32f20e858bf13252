"""Sector ranges through every command and every way to write an address: hostile.md section 5."""

from __future__ import annotations

import struct

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.bad import TooManyRanges
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.testing import RecordingDisk

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    BSY,
    CANARY,
    DATA,
    DISK_SECTORS,
    DRQ,
    ERR,
    IDNF,
    INTERRUPT,
    LBA,
    REST,
    SECTOR,
    SET_MULTIPLE,
    TRIM,
    UNC,
    Guest,
    ata,
    contents,
    filled,
    pattern,
)

IMAGE = pattern(DISK_SECTORS * SECTOR)
N = DISK_SECTORS
PIO_READS = {0x20: False, 0x21: False, 0x24: True, 0xC4: False, 0x29: True}
PIO_WRITES = {0x30: False, 0x31: False, 0x34: True, 0xC5: False, 0x39: True, 0xCE: True}
DMA_READS = {0xC8: False, 0xC9: False, 0x25: True}
DMA_WRITES = {0xCA: False, 0xCB: False, 0x35: True, 0x3D: True}
VERIFIES = {0x40: False, 0x41: False, 0x42: True}
EVERY = PIO_READS | PIO_WRITES | DMA_READS | DMA_WRITES | VERIFIES
FUA = (0x3D, 0xCE)

IN_RANGE = [(0, 1), (N - 1, 1), (0, 256), (N - 256, 256), (7, 3)]
OUT_OF_RANGE_28 = [(N, 1), (N - 1, 2), (N - 255, 256), ((1 << 28) - 1, 1), ((1 << 28) - 1, 256)]
OUT_OF_RANGE_48 = [
    *OUT_OF_RANGE_28,
    (0, N + 1),
    (0, 65536),
    ((1 << 48) - 1, 1),
    ((1 << 48) - 1, 65536),
    ((1 << 48) - 2, 2),
    (1 << 32, 1),
    ((1 << 32) - 1, 2),
    (1 << 28, 1),
    (1 << 24, 1),
    (1 << 40, 256),
]


def make(make_bench: MakeBench, engine: Engine) -> tuple[Guest, RecordingDisk]:
    disk = RecordingDisk(filled(N * SECTOR))
    memory = GuestMemory.of_size(0x60000)
    guest = Guest(make_bench({(0, 0): ata(engine, disk)}, memory=memory))
    guest.command(SET_MULTIPLE, count=8)
    guest.lay_canaries()
    return guest, disk


def issue(guest: Guest, opcode: int, lba: int, count: int) -> None:
    """The command with its registers; the count as it is encoded: 256 and 65536 are 0."""
    ext = EVERY[opcode]
    mask = 0xFFFF if ext else 0xFF
    if opcode in DMA_READS or opcode in DMA_WRITES:
        guest.table([(DATA, 0)] * 4)
        guest.command(opcode, lba, count & mask, ext=ext)
        guest.start(opcode in DMA_READS)
        guest.settle()
    else:
        guest.command(opcode, lba, count & mask, ext=ext)


def run(guest: Guest, opcode: int, lba: int, count: int, data: bytes) -> bytes:
    """The whole command: its data in, or `data` out."""
    if opcode in DMA_WRITES:
        guest.poke(DATA, data)
    issue(guest, opcode, lba, count)
    got = b""
    if opcode in PIO_READS:
        got = guest.read(count * SECTOR)
    elif opcode in PIO_WRITES:
        guest.write(data)
    elif opcode in DMA_READS:
        got = guest.peek(DATA, min(count * SECTOR, 0x10000))
    guest.stop()
    return got


def test_hostile_5_in_range_succeeds_exactly(make_bench: MakeBench, engine: Engine) -> None:
    """The data of these sectors and no other; after it the registers name the last."""
    guest, disk = make(make_bench, engine)
    expected = bytearray(IMAGE)
    for opcode, ext in EVERY.items():
        for lba, count in [*IN_RANGE, *([(0, N)] if ext else [])]:
            size, at = count * SECTOR, lba * SECTOR
            if opcode in DMA_READS and size > 0x10000:
                continue
            if opcode in DMA_WRITES and size > 0x10000:
                continue
            data = pattern(size, opcode)
            disk.calls.clear()
            got = run(guest, opcode, lba, count, data)
            assert guest.status == REST, (hex(opcode), lba, count)
            if got:
                assert got == expected[at : at + size]
            if opcode in PIO_WRITES or opcode in DMA_WRITES:
                expected[at : at + size] = data
                writes = [call for call in disk.calls if call.name == "write"]
                assert sum(call.count for call in writes) == count
                stable = opcode in FUA or not disk.volatile_cache
                assert all(call.fua == stable for call in writes)
            last = lba + count - 1
            low = [last & 0xFF, last >> 8 & 0xFF, last >> 16 & 0xFF]
            assert guest.registers[2:5] == low
    assert contents(disk.below) == expected


def test_hostile_5_out_of_range_fails_and_touches_nothing(
    make_bench: MakeBench, engine: Engine
) -> None:
    """IDNF at once: no data is asked for, no sector read, no byte of memory or image written."""
    guest, disk = make(make_bench, engine)
    before = guest.ram()[DATA:]
    disk.calls.clear()
    for opcode, ext in EVERY.items():
        for lba, count in OUT_OF_RANGE_48 if ext else OUT_OF_RANGE_28:
            issue(guest, opcode, lba, count)
            assert guest.status & (BSY | DRQ | ERR) == ERR, (hex(opcode), lba, count)
            assert guest.error == ABRT | IDNF
            guest.stop()
    assert disk.calls == []
    assert guest.ram()[DATA:] == before
    assert contents(disk.below) == IMAGE
    guest.check_usable()


def test_hostile_5_28_bit_commands_see_28_bits(make_bench: MakeBench, engine: Engine) -> None:
    """What lies in the previous bytes of the registers is not part of a 28-bit command."""
    guest, disk = make(make_bench, engine)
    for register in range(1, 6):
        guest.set(register, 0xEE)
    for register, value in ((2, 1), (3, 9), (4, 0), (5, 0), (6, LBA), (7, 0x20)):
        guest.set(register, value)
    assert guest.read(SECTOR) == IMAGE[9 * SECTOR : 10 * SECTOR]
    for opcode, ext in EVERY.items():
        if ext:  # the head bits are no part of a 48-bit address, and LBA must be set
            guest.command(opcode, 1, 1, ext=True, device=0x0F)
            assert guest.status & ERR
            assert guest.error == ABRT | IDNF
            guest.command(opcode, 1, 1, ext=True, device=LBA | 0x0F)
            assert not guest.status & ERR
            guest.reset()
            guest.command(SET_MULTIPLE, count=8)
    assert contents(disk.below) == IMAGE


def test_hostile_5_chs(make_bench: MakeBench, engine: Engine) -> None:
    """Sector 0 is illegal, so is what lies outside the geometry; all else is where it should be."""
    guest, disk = make(make_bench, engine)
    data = guest.identify()
    cylinders, heads, sectors = (struct.unpack_from("<H", data, 2 * word)[0] for word in (1, 3, 6))
    assert cylinders * heads * sectors <= N
    for cylinder in (0, 1, cylinders - 1):
        for head in (0, 1, heads - 1):
            for sector in (1, 2, sectors):
                at = ((cylinder * heads + head) * sectors + sector - 1) * SECTOR
                guest.command(0x20, cylinder << 8 | sector, 1, device=head)
                assert guest.read(SECTOR) == IMAGE[at : at + SECTOR]
                assert guest.registers[2:6] == [sector, cylinder & 0xFF, cylinder >> 8, head]
    bad = [(0, 0, 0), (0, 0, sectors + 1), (0, heads, 1), (cylinders, 0, 1), (65535, 15, 255)]
    disk.calls.clear()
    for cylinder, head, sector in bad:
        for opcode in [opcode for opcode, ext in EVERY.items() if not ext] + [0x70]:
            guest.command(opcode, cylinder << 8 | sector, 1, device=head)
            assert guest.status & (DRQ | ERR) == ERR, (cylinder, head, sector)
            assert guest.error == ABRT | IDNF
    assert disk.calls == []
    for count in (1, 255, 0):  # on over the end of a track, a cylinder, the disk
        guest.command(0x40, 1, count, device=0)
        assert guest.status == REST
    last = (cylinders - 1) << 8 | sectors
    guest.command(0x40, last, 0, device=heads - 1)
    assert guest.error == ABRT | IDNF
    assert contents(disk.below) == IMAGE


def test_hostile_5_trim(make_bench: MakeBench, engine: Engine) -> None:
    """Ranges at both ends and across; one bad range, wherever it is, and nothing is trimmed."""
    guest, disk = make(make_bench, engine)

    def trim(ranges: list[tuple[int, int]], blocks: int = 1) -> int:
        entries = b"".join(struct.pack("<Q", count << 48 | lba) for lba, count in ranges)
        guest.poke(DATA, entries.ljust(blocks * 512, b"\0"))
        return guest.dma(TRIM, [(DATA, blocks * 512)], count=blocks, features=1, ext=True)

    maximum = (1 << 48) - 1
    bad = [(N, 1), (N - 1, 2), (maximum, 1), (maximum, 65535), (0, N + 1), (1 << 32, 1), (5, 65535)]
    for position in (0, 1, 63):
        for one in bad:
            ranges = [(16 * n, 4) for n in range(64)]
            ranges[position] = one
            disk.calls.clear()
            assert trim(ranges) == INTERRUPT
            assert guest.status & ERR, one
            assert guest.error == ABRT | IDNF
            assert disk.calls == [], "something was trimmed"
    assert contents(disk.below) == IMAGE
    assert trim([(maximum, 0), (N, 0), (0, 0)]) == INTERRUPT  # entries of no sectors are skipped
    assert guest.status == REST
    assert disk.calls == []
    expected = bytearray(IMAGE)
    for lba, count in ((0, 1), (N - 1, 1), (100, 64), (120, 8), (0, N)):
        assert trim([(lba, count)]) == INTERRUPT
        assert guest.status == REST
        expected[lba * SECTOR : (lba + count) * SECTOR] = bytes(count * SECTOR)
        assert contents(disk.below) == expected
    for features, count in ((0, 1), (2, 1), (1, 0), (1, 9), (1, 255)):
        guest.command(TRIM, 0, count, features=features, ext=True)
        assert guest.status & ERR
        assert guest.error == ABRT


def test_hostile_4_11_sectors_declared_bad_are_bounded(
    make_bench: MakeBench, engine: Engine
) -> None:
    """However a guest cuts them up, a drive remembers so many ranges, and saves them."""
    guest = Guest(make_bench({(0, 0): ata(engine, filled(3072 * SECTOR))}))
    drive = guest.channel.drives[0]
    assert isinstance(drive, AtaDisk)
    for lba in range(0, 2048, 2):  # one by one, as WRITE UNCORRECTABLE EXT does
        drive.bad.add(lba, 1)
    with pytest.raises(TooManyRanges):
        drive.bad.add(2048, 1)
    drive.bad.add(1, 2047)
    drive.bad.add(2048, 1024)
    assert drive.bad.save() == [[0, 3072]]
    for lba in range(0, 3072, 2):  # all at once, then cut
        guest.command(0x34, lba, 1, ext=True)
        guest.write(bytes(SECTOR))
        assert not guest.status & (ERR | DRQ)
    assert 1000 < len(drive.bad.save()) <= 1024
    for lba in (1, 999):
        guest.command(0x24, lba, 1, ext=True)
        assert guest.status & ERR
        assert guest.error == UNC
    for lba in (0, 998, 2200, 3070):
        guest.command(0x24, lba, 1, ext=True)
        assert guest.read(SECTOR) == bytes(SECTOR)


def test_hostile_5_read_only_disks(make_bench: MakeBench, engine: Engine) -> None:
    disk = filled(N * SECTOR, read_only=True)
    guest = Guest(make_bench({(0, 0): ata(engine, disk)}, memory=GuestMemory.of_size(0x40000)))
    guest.command(SET_MULTIPLE, count=8)
    for opcode in (*PIO_WRITES, *DMA_WRITES):
        issue(guest, opcode, 3, 2)
        guest.write(bytes(1024))
        assert guest.status & (BSY | DRQ | ERR) == ERR
        assert guest.error & ABRT
        guest.stop()
    guest.command(TRIM, 0, 1, features=1, ext=True)
    assert guest.status & ERR
    guest.command(0xE7)
    assert guest.status == REST
    assert contents(disk) == IMAGE


@pytest.mark.parametrize("sectors", [1, 3, 16, 17 * 4 - 1, 16383])
def test_hostile_5_tiny_disks(make_bench: MakeBench, engine: Engine, sectors: int) -> None:
    """Disks smaller than any geometry: identify, read all, and not one more."""
    guest = Guest(make_bench({(0, 0): ata(engine, filled(sectors * SECTOR))}))
    guest.identify()
    guest.command(0x24, sectors - 1, 1, ext=True)
    assert guest.read(SECTOR) == pattern(sectors * SECTOR)[-SECTOR:]
    guest.command(0x24, sectors, 1, ext=True)
    assert guest.error == ABRT | IDNF
    for lba in range(1, 1000, 7):
        guest.command(0x20, lba, 1, device=lba & 3)  # CHS
        if guest.status & DRQ:
            guest.read(SECTOR)
    if sectors > 5:
        guest.check_usable()


@pytest.mark.parametrize("size", [1024, 2048, 4096, 65536])
def test_hostile_5_large_sectors(make_bench: MakeBench, engine: Engine, size: int) -> None:
    """Blocks, tables and ends are of the disk's own sectors."""
    count = (1 << 20) // size
    disk = RecordingDisk(filled(1 << 20, sector_size=size))
    memory = GuestMemory.of_size(0x60000)
    guest = Guest(make_bench({(0, 0): AtaDisk(disk, engine)}, memory=memory))
    guest.lay_canaries()
    whole = pattern(1 << 20)
    guest.command(0x20, count - 2, 2)
    assert guest.read(2 * size) == whole[-2 * size :]
    assert guest.status == REST
    guest.table([(DATA, 2), (DATA + 2, size - 2), (DATA + size, 512)])
    guest.command(0xC8, 1, 2)
    guest.start(to_memory=True)
    guest.settle()
    assert guest.bm_status == 0
    assert guest.peek(DATA, size) == whole[size : 2 * size]
    assert guest.peek(DATA + size, 512) == bytes([CANARY]) * 512
    guest.stop()
    guest.command(0x30, 3, 1)
    guest.write(b"\x77" * size)
    assert contents(disk.below)[3 * size : 4 * size] == b"\x77" * size
    guest.command(0x20, count, 1)
    assert guest.error == ABRT | IDNF


def test_hostile_5_capacities_no_register_can_hold(make_bench: MakeBench, engine: Engine) -> None:
    """More than 2^28 sectors: 28-bit commands reach what they can name, 48-bit ones all."""
    disk = RamDisk(1 << 40)
    guest = Guest(make_bench({(0, 0): ata(engine, disk)}))
    data = guest.identify()
    assert struct.unpack_from("<I", data, 120)[0] == (1 << 28) - 1
    assert struct.unpack_from("<Q", data, 200)[0] == 1 << 31
    guest.command(0x20, (1 << 28) - 1, 1)
    assert guest.read(512) == bytes(512)
    guest.command(0x24, (1 << 31) - 1, 1, ext=True)
    assert guest.read(512) == bytes(512)
    guest.command(0x24, 1 << 31, 1, ext=True)
    assert guest.error == ABRT | IDNF
    guest.command(0xF8)
    assert guest.registers[2:] == [0xFF, 0xFF, 0xFF, LBA | 0xF]
    guest.command(0x27, 0, 0, ext=True)
    assert guest.registers[2:5] == [0xFF, 0xFF, 0xFF]
