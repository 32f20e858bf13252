"""Disks that fail under a drive, swept over every call: hostile.md 4.8, 4.11 and 4.12."""

from __future__ import annotations

import errno
import gc
import logging
import struct
from collections.abc import Callable

import pytest

from drivebay.ata import device as ata_device
from drivebay.disk.backends.ram import RamDisk
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
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory

from .conftest import MakeBench
from .hostile_support import (
    ABRT,
    BSY,
    DATA,
    DISK_SECTORS,
    DRQ,
    ERR,
    FLUSH,
    IDNF,
    INTERRUPT,
    LBA,
    READ,
    READ_DMA,
    READ_MULTIPLE,
    REST,
    SECTOR,
    SET_MULTIPLE,
    TRIM,
    UNC,
    VERIFY,
    WRITE,
    WRITE_DMA,
    WRITE_MULTIPLE,
    Breaking,
    Guest,
    ata,
    contents,
    filled,
    pattern,
)

IMAGE = pattern(DISK_SECTORS * SECTOR)
FAULTS: list[tuple[DiskError, int]] = [
    (IoError(errno.EIO, "x"), ABRT),
    (IoError(errno.EINTR, "x"), ABRT),
    (IoError(errno.EAGAIN, "x"), ABRT),
    (IoError(errno.ETIMEDOUT, "x"), ABRT),
    (NoSpace(errno.ENOSPC, "x"), ABRT),
    (NoSpace(errno.EDQUOT, "x"), ABRT),
    (MediumError(Medium.UNRECOVERED_READ), UNC),
    (MediumError(Medium.GUARD_CHECK), UNC),
    (MediumError(Medium.WRITE_FAULT), ABRT),
    (MemoryAccess("x"), ABRT),
    (ReadOnly("x"), ABRT),
    (IllegalBlock(0, 1, 0), IDNF),
    (InvalidInput("x"), ABRT),
    (ReservationConflict("x"), ABRT),
    (AbortedByPreempt("x"), ABRT),
]
BUGS: list[type[Exception]] = [
    ValueError,
    RecursionError,
    MemoryError,
    struct.error,
    OverflowError,
    AssertionError,
    BufferError,
    NotImplementedError,
    KeyError,
]


def make(
    make_bench: MakeBench, engine: Engine, fault: Callable[[str, int, int], Exception | None]
) -> tuple[Guest, Breaking, RamDisk]:
    below = filled(DISK_SECTORS * SECTOR)
    disk = Breaking(below, fault)
    memory = GuestMemory.of_size(0x40000)
    guest = Guest(make_bench({(0, 0): ata(engine, disk)}, memory=memory))
    guest.command(SET_MULTIPLE, count=4)
    return guest, disk, below


def nothing(name: str, sector: int, count: int) -> None:
    """No fault."""


def address(guest: Guest) -> int:
    """The 28-bit address in the registers."""
    low, mid, high, device = guest.registers[2:]
    assert device & LBA
    return (device & 0xF) << 24 | high << 16 | mid << 8 | low


def run(guest: Guest, opcode: int, lba: int, count: int) -> None:
    """A command to its end, with as much data as the drive takes or gives."""
    guest.table([(DATA, 0)])
    guest.command(opcode, lba, count, features=1 if opcode == TRIM else 0)
    if opcode in (READ_DMA, WRITE_DMA, TRIM):
        guest.start(opcode == READ_DMA)
    elif opcode in (READ, READ_MULTIPLE):
        guest.read(count * SECTOR)
    elif opcode in (WRITE, WRITE_MULTIPLE):
        guest.write(bytes(count * SECTOR))
    guest.settle()
    guest.stop()


USERS = {
    "read": (READ, READ_MULTIPLE, READ_DMA, VERIFY),
    "write": (WRITE, WRITE_MULTIPLE, WRITE_DMA),
    "flush": (FLUSH, 0xEA, 0xE0, 0xE2, 0xE6, 0x94),
    "unmap": (TRIM,),
}


@pytest.mark.parametrize("name", list(USERS))
def test_hostile_4_8_each_error_is_the_guests(
    make_bench: MakeBench, engine: Engine, name: str
) -> None:
    """The right bits, an interrupt, nothing in the image, and the next command works."""
    error: DiskError | None = None
    guest, _, below = make(
        make_bench, engine, lambda called, sector, count: error if called == name else None
    )
    guest.poke(DATA, struct.pack("<Q", 8 << 48 | 40).ljust(512, b"\0"))
    for opcode in USERS[name]:
        count = 1 if opcode == TRIM else 6
        for raised, bits in FAULTS:
            error = raised
            guest.bench.interrupts.clear()
            run(guest, opcode, 40, count)
            assert guest.irq, (hex(opcode), raised)
            assert guest.status & (BSY | DRQ | ERR) == ERR
            if name == "flush":
                assert guest.error == ABRT
            else:
                assert guest.error == bits, (hex(opcode), raised)
            assert not guest.irq
            assert contents(below) == IMAGE
            error = None
            run(guest, READ, 40, 1)
            assert guest.status == REST
    for opcode in USERS[name]:
        if opcode != 0xE6:
            run(guest, opcode, 40, 1)
            assert guest.status == REST


@pytest.mark.parametrize("opcode", [READ, READ_MULTIPLE])
@pytest.mark.parametrize("where", [0, 1, 5, 63, 127, 128, 129, 199])
@pytest.mark.parametrize("known", [False, True])
def test_hostile_4_8_pio_reads_up_to_the_bad_sector(
    make_bench: MakeBench, engine: Engine, opcode: int, where: int, known: bool
) -> None:
    """The read-ahead fails: the good blocks before it are delivered, and the error has its LBA."""
    lba, count = 300, 200
    bad = lba + where

    def fault(name: str, sector: int, size: int) -> Exception | None:
        if name == "read" and sector <= bad < sector + size:
            return MediumError(Medium.UNRECOVERED_READ, bad if known else None)
        return None

    guest, disk, _ = make(make_bench, engine, fault)
    guest.command(opcode, lba, count)
    block = SECTOR * (4 if opcode == READ_MULTIPLE else 1)
    got = b""
    while guest.status & DRQ:
        got += guest.read(block)
    good = where * SECTOR // block * block
    assert got == IMAGE[lba * SECTOR :][:good]
    assert guest.status & (BSY | DRQ | ERR) == ERR
    assert guest.error == UNC
    assert address(guest) == (bad if known else lba + good // SECTOR)
    assert guest.registers[1] == count - good // SECTOR
    disk.fault = nothing
    run(guest, opcode, lba, count)
    assert guest.status == REST
    assert address(guest) == lba + count - 1


@pytest.mark.parametrize("opcode", [WRITE, WRITE_MULTIPLE])
def test_hostile_4_8_pio_writes_up_to_the_bad_sector(
    make_bench: MakeBench, engine: Engine, opcode: int
) -> None:
    """What was written before stays; the registers name the first that was not."""
    for where in (0, 1, 4, 7, 9):
        bad = 300 + where

        def fault(name: str, sector: int, size: int, bad: int = bad) -> Exception | None:
            hit = name == "write" and sector <= bad < sector + size
            return NoSpace(errno.ENOSPC, "x") if hit else None

        guest, _, below = make(make_bench, engine, fault)
        run(guest, opcode, 300, 10)
        good = where // 4 * 4 if opcode == WRITE_MULTIPLE else where
        assert guest.status & (BSY | DRQ | ERR) == ERR
        assert guest.error == ABRT
        assert address(guest) == 300 + good
        assert guest.registers[1] == 10 - good
        expected = IMAGE[: 300 * 512] + bytes(good * 512) + IMAGE[(300 + good) * 512 :]
        assert contents(below) == expected


def test_hostile_4_8_the_registers_name_the_sector_in_the_hosts_way(
    make_bench: MakeBench, engine: Engine
) -> None:
    """LBA48 in both bytes, LBA28 with its top bits in Device, cylinder, head and sector."""
    guest, disk, _ = make(
        make_bench, engine, lambda name, sector, count: MediumError(Medium.UNRECOVERED_READ, 1234)
    )
    for opcode in (0x24, 0x25, 0x42):
        guest.table([(DATA, 0)])
        guest.command(opcode, 1200, 64, ext=True)
        guest.start(to_memory=True)
        guest.stop()
        assert guest.error == UNC
        assert guest.registers[2:5] == [1234 & 0xFF, 1234 >> 8, 0]
        guest.control(0x80)
        assert guest.registers[2:5] == [0, 0, 0]
        guest.control(0)
    guest.command(READ, 1200, 64)
    assert address(guest) == 1234
    guest.reset()
    disk.fault = nothing
    data = guest.identify()
    heads, sectors = struct.unpack_from("<H", data, 6)[0], struct.unpack_from("<H", data, 12)[0]
    disk.fault = lambda name, sector, count: MediumError(Medium.UNRECOVERED_READ, 1234)
    guest.command(READ, 1, 0, device=0)
    track, sector = divmod(1234, sectors)
    cylinder, head = divmod(track, heads)
    assert guest.error == UNC
    assert guest.registers[2:] == [sector + 1, cylinder & 0xFF, cylinder >> 8, head]


def test_hostile_4_8_absurd_sectors_in_an_error(make_bench: MakeBench, engine: Engine) -> None:
    """A disk that names a sector outside the command, the disk, or any register."""
    for named in (0, DISK_SECTORS, 1 << 28, 1 << 48, 1 << 63, (1 << 64) - 1):
        error = MediumError(Medium.UNRECOVERED_READ, named)
        guest, _, _ = make(make_bench, engine, lambda name, sector, count, e=error: e)  # type: ignore[misc]
        for device in (LBA, 0):
            guest.command(READ, 5, 4, device=device)
            assert guest.status & (BSY | DRQ | ERR) == ERR
            assert guest.error == UNC
        guest.command(0x24, 5, 4, ext=True)
        assert guest.status & ERR


@pytest.mark.parametrize("bug", BUGS, ids=[bug.__name__ for bug in BUGS])
def test_hostile_4_12_bugs_of_ours_fail_one_command(
    make_bench: MakeBench,
    engine: Engine,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    bug: type[Exception],
) -> None:
    """Each is logged with where it came from, rationed, and the drive is usable at once."""
    monkeypatch.setattr(ata_device, "guest_log", RationedLog(ata_device.log))
    guest, disk, below = make(make_bench, engine, lambda name, sector, count: bug("ours"))
    guest.poke(DATA, struct.pack("<Q", 8 << 48 | 40).ljust(512, b"\0"))
    for opcodes in USERS.values():
        for opcode in opcodes:
            for _ in range(5):
                run(guest, opcode, 40, 1)
                assert guest.irq
                assert guest.status & (BSY | DRQ | ERR) == ERR
                assert guest.error == ABRT
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert 0 < len(errors) < 30
    assert all(record.exc_info for record in errors)
    caplog.clear()
    assert contents(below) == IMAGE
    disk.fault = nothing
    run(guest, READ, 1, 4)
    assert guest.status == REST


def test_hostile_4_8_dma_that_fails_in_a_later_part(make_bench: MakeBench, engine: Engine) -> None:
    """Parts before it were moved, and the registers say how far it came."""
    guest, _, _ = make(
        make_bench,
        engine,
        lambda name, sector, count: IoError(errno.EIO, "x") if sector >= 9 else None,
    )
    regions = [(DATA + 2 * n, 2) for n in range(1024)]
    status = guest.dma(READ_DMA, regions, 8, 4)
    assert status & INTERRUPT
    assert guest.status & ERR
    assert address(guest) == 9
    assert guest.registers[1] == 3
    assert guest.peek(DATA, 512) == IMAGE[8 * 512 : 9 * 512]


def test_hostile_4_11_a_thousand_drives_come_and_go(make_bench: MakeBench, engine: Engine) -> None:
    """Attach, a command, detach: nothing is kept."""
    guest = Guest(make_bench({}, memory=GuestMemory.of_size(0x20000)))
    disk = filled(1 << 16)

    def cycle() -> None:
        guest.bench.ide.attach(0, 0, ata(engine, disk))
        guest.command(READ, 1, 1)
        guest.read(100)
        assert guest.alternate & DRQ
        guest.bench.ide.detach(0, 0)
        assert guest.status == 0x7F

    for _ in range(10):
        cycle()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(300):
        cycle()
    gc.collect()
    assert len(gc.get_objects()) - before < 100
