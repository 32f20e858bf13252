"""Commands by their bytes: what they answer, and what the result says of where they ended."""

from __future__ import annotations

import pytest

from drivebay.controllers.floppy import MEDIA, DriveType, FloppyDrive
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import InvalidInput, IoError, Medium, MediumError
from drivebay.platform.engine import Engine
from drivebay.testing import PuppetDisk, RecordingDisk

from .support import (
    BUFFER,
    DATA_IN,
    DATA_OUT,
    DIR,
    DOR,
    DSR,
    EXECUTING,
    FORMAT,
    HD,
    IDLE,
    MSR,
    READ,
    RESULT,
    SENSE,
    TDR,
    WRITE,
    Bench,
    content,
    filled,
    noise,
)

MT, SK = 0x80, 0x20
READ_TRACK, READ_DELETED, WRITE_DELETED, VERIFY, READ_ID = 0x42, 0x4C, 0x49, 0x56, 0x4A
SCAN_EQUAL, SCAN_LOW, SCAN_HIGH = 0x51, 0x59, 0x5D
EN, DE, OR, ND, NW, MA = 0x80, 0x20, 0x10, 0x04, 0x02, 0x01
CM, DD, WC, SH, SN = 0x40, 0x20, 0x10, 0x08, 0x04
ABNORMAL = 0x40


def place(
    opcode: int, c: int = 0, h: int = 0, r: int = 1, n: int = 2, eot: int = 18, dtl: int = 0xFF
) -> tuple[int, ...]:
    """A command for drive A, at the side of `h`."""
    return opcode, h << 2, c, h, r, n, eot, 0x1B, dtl


@pytest.fixture
def ready(bench: Bench) -> Bench:
    bench.motors(0)
    return bench


# -- the registers ---------------------------------------------------------------------------------


def test_power_on(bench: Bench) -> None:
    """Out of reset, and nothing to say."""
    assert [bench.inb(port) for port in (0x3F0, 0x3F1, DOR, TDR, MSR)] == [
        *(0xFF, 0xFF, 0x0C, 0xFC, IDLE)
    ]
    assert not bench.line.level
    assert bench.command(SENSE) == [0x80]


@pytest.mark.parametrize("values", [(DOR, 0x08, 0x0C), (DSR, 0x80)], ids=["DOR", "DSR"])
def test_a_reset_has_four_things_to_say(bench: Bench, values: tuple[int, ...]) -> None:
    """In the middle of a command; while the DOR holds the controller in reset, nothing answers."""
    bench.send(READ, 0, 0)
    port, *written = values
    for value in written:
        assert not bench.line.level
        bench.outb(port, value)
        if value == 0x08:
            assert bench.inb(MSR) == 0
            bench.outb(0x3F5, 0x10)
    assert bench.line.level
    assert bench.command(SENSE) == [0xC0, 0]
    assert not bench.line.level
    assert [bench.command(SENSE) for _ in range(3)] == [[0xC1, 0], [0xC2, 0], [0xC3, 0]]
    assert bench.command(SENSE) == [0x80]


def test_a_seek_after_a_reset_is_told_first(bench: Bench) -> None:
    """SeaBIOS asks once after a reset, and then for its seeks."""
    bench.outb(DSR, 0x80)
    assert bench.command(SENSE) == [0xC0, 0]
    bench.command(0x0F, 0, 5)
    bench.command(0x0F, 1, 6)
    assert [bench.command(SENSE) for _ in range(3)] == [[0x20, 5], [0x21, 6], [0x80]]


def test_a_shut_gate_stops_interrupts_and_dma(ready: Bench) -> None:
    ready.outb(DOR, 0x14)
    ready.aim(512)
    ready.send(*place(READ))
    assert not ready.line.level
    ready.outb(DOR, 0x1C)
    assert ready.line.level
    assert ready.result()[:3] == [ABNORMAL, OR, 0]


def test_without_polling_a_reset_does_not_interrupt(bench: Bench) -> None:
    """CONFIGURE's POLL, where LOCK keeps it."""
    bench.command(0x13, 0, 0x10, 0)
    assert bench.command(0x94) == [0x10]
    bench.outb(DSR, 0x80)
    assert not bench.line.level
    assert bench.command(SENSE) == [0x80]
    assert bench.command(0x14) == [0x00]
    bench.outb(DSR, 0x80)
    assert bench.line.level


def test_what_a_software_reset_leaves(bench: Bench) -> None:
    """DUMPREG before and after, not locked and locked."""
    bench.command(0x03, 0xAF, 0x1E)
    bench.command(0x13, 0, 0x4B, 0x21)
    bench.command(0x12, 0x80 | 0x04 | 0x03)
    bench.seek(7)
    told = [7, 0, 0, 0, 0xAF, 0x1E, 0, 0x07, 0x4B, 0x21]
    assert bench.command(0x0E) == told
    bench.command(0x94)
    bench.outb(DSR, 0x80)
    told[7] = 0x84
    assert bench.command(0x0E) == told
    bench.command(0x14)
    bench.outb(DSR, 0x80)
    assert bench.command(0x0E) == [7, 0, 0, 0, 0xAF, 0x1E, 0, 0x04, 0x20, 0]
    bench.command(0x12, 0x3C)  # without OW the drives stay
    assert bench.command(0x0E)[7] == 0x04


def test_who_it_is(bench: Bench) -> None:
    assert bench.command(0x10) == [0x90]
    assert bench.command(0x18) == [0x01]
    assert bench.command(0x1F) == [0x80]


# -- drives ----------------------------------------------------------------------------------------


def test_sense_drive_status(engine: Engine) -> None:
    protected = FloppyDrive(filled(read_only=True))
    bench = Bench(engine, [FloppyDrive(filled()), protected])
    assert bench.command(0x04, 4) == [0x3C]
    bench.seek(1)
    assert bench.command(0x04, 0) == [0x28]
    assert bench.command(0x04, 1) == [0x79]
    assert bench.command(0x04, 2) == [0x2A]  # nobody there


def test_recalibrate_makes_79_steps(bench: Bench) -> None:
    bench.seek(82)
    bench.command(0x07, 0)
    assert bench.command(SENSE) == [0x70, 0]
    bench.command(0x07, 0)
    assert bench.command(SENSE) == [0x20, 0]
    bench.command(0x07, 3)
    assert bench.command(SENSE) == [0x73, 0]


def test_relative_seek(bench: Bench) -> None:
    for opcode, by, said in ((0xCF, 5, [0x20, 5]), (0x8F, 2, [0x20, 3]), (0x8F, 4, [0x70, 0])):
        bench.command(opcode, 0, by)
        assert bench.command(SENSE) == said


def test_implied_seek(ready: Bench) -> None:
    assert ready.command(*place(READ, c=5))[:3] == [ABNORMAL, ND, WC]
    ready.command(0x13, 0, 0x40, 0)
    ready.aim(512)
    assert ready.command(*place(READ, c=5)) == [0, 0, 0, 5, 0, 2, 2]
    assert ready.ram_at(512) == content(ready.ram)[5 * 36 * 512 :][:512]


def test_the_change_line(ready: Bench) -> None:
    """Up until a step with a disk in the drive; it is that of the drive which is selected."""
    assert ready.inb(DIR) == 0xFF
    ready.seek(1)
    assert ready.inb(DIR) == 0x7F
    ready.motors(1)
    ready.seek(1, unit=1)
    assert ready.inb(DIR) == 0xFF
    ready.outb(DOR, 0x0D)
    assert ready.inb(DIR) == 0x7F  # not selected, without its motor
    ready.motors(0)
    disk = ready.fdc.eject(0)
    assert ready.inb(DIR) == 0xFF
    assert disk is not None
    ready.fdc.insert(0, disk)
    assert ready.inb(DIR) == 0xFF
    ready.seek(0)
    assert ready.inb(DIR) == 0x7F


def test_what_fits_into_a_drive() -> None:
    drive = FloppyDrive(kind=DriveType.INCH_3_1440K)
    for medium in MEDIA:
        disk = RamDisk(medium.byte_count)
        if medium.name in ("720K", "1.44M", "1.68M", "1.84M"):
            drive.insert(disk)
        else:
            with pytest.raises(InvalidInput, match="does not fit this drive"):
                drive.insert(disk)


# -- where a command ends (table 5-6) --------------------------------------------------------------


@pytest.mark.parametrize(
    ("mt", "h", "r", "sectors", "where"),
    [
        (0, 0, 3, 2, [0, 0, 5]),
        (0, 0, 17, 2, [1, 0, 1]),
        (0, 1, 3, 2, [0, 1, 5]),
        (0, 1, 17, 2, [1, 1, 1]),
        (MT, 0, 3, 2, [0, 0, 5]),
        (MT, 0, 17, 2, [0, 1, 1]),
        (MT, 0, 17, 4, [0, 1, 3]),
        (MT, 1, 3, 2, [0, 1, 5]),
        (MT, 1, 17, 2, [1, 0, 1]),
    ],
)
def test_the_host_ends_it(
    ready: Bench, mt: int, h: int, r: int, sectors: int, where: list[int]
) -> None:
    ready.aim(sectors * 512)
    st0, st1, st2, *ended = ready.command(*place(READ | mt, h=h, r=r))
    last_side = 1 if h or (mt and r + sectors > 19) else 0
    assert (st0, st1, st2, ended) == (last_side << 2, 0, 0, [*where, 2])
    block = h * 18 + r - 1
    assert ready.ram_at(sectors * 512) == content(ready.ram)[block * 512 :][: sectors * 512]


def test_the_cylinder_ends_it(ready: Bench) -> None:
    ready.aim(40 * 512)
    assert ready.command(*place(READ | MT)) == [0x44, EN, 0, 1, 0, 1, 2]
    ready.aim(40 * 512)
    assert ready.command(*place(READ, r=2, eot=4)) == [0x40, EN, 0, 1, 0, 1, 2]


def test_dma_may_end_within_a_sector(ready: Bench) -> None:
    ready.store(b"\x11" * 2048)
    ready.aim(700)
    assert ready.command(*place(READ)) == [0, 0, 0, 0, 0, 3, 2]
    assert ready.ram_at(2048) == content(ready.ram)[:700] + b"\x11" * 1348
    ready.aim(700, to_memory=False)
    ready.store(b"\x22" * 700)
    assert ready.command(*place(WRITE)) == [0, 0, 0, 0, 0, 3, 2]
    assert content(ready.ram)[:1024] == b"\x22" * 700 + bytes(324)


@pytest.mark.parametrize(
    ("bytes_", "st1", "st2"),
    [
        ({"c": 1}, ND, WC),
        ({"r": 0}, ND, 0),
        ({"r": 19}, ND, 0),
        ({"n": 0}, ND, 0),
        ({"n": 3}, ND, 0),
    ],
)
def test_there_is_no_such_sector(ready: Bench, bytes_: dict[str, int], st1: int, st2: int) -> None:
    ready.aim(512)
    assert ready.command(*place(READ, **bytes_))[:3] == [ABNORMAL, st1, st2]


def test_there_is_no_mark(ready: Bench) -> None:
    """FM; another rate; a track that nobody formatted; a motor that is off; no disk, no drive."""
    ready.aim(512)
    none = [ABNORMAL, MA, 0]
    assert ready.command(*place(READ & ~0x40))[:3] == none
    ready.outb(0x3F7, 2)
    assert ready.command(*place(READ))[:3] == none
    assert ready.command(READ_ID, 0)[:3] == none
    ready.outb(0x3F7, 0)
    ready.seek(80)
    assert ready.command(*place(READ, c=80))[:3] == none
    assert ready.command(READ_ID, 0)[:3] == none
    ready.seek(0)
    assert ready.command(READ_ID, 4) == [4, 0, 0, 0, 1, 1, 2]
    ready.motors(1)
    assert ready.command(*place(READ))[:3] == none
    for unit in (1, 2, 3):
        assert ready.command(READ, unit, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:3] == [0x40 | unit, MA, 0]


def test_dma_that_does_not_answer_is_an_overrun(ready: Bench) -> None:
    assert ready.command(*place(READ))[:3] == [ABNORMAL, OR, 0]
    ready.aim(512, to_memory=False)
    assert ready.command(*place(READ))[:3] == [ABNORMAL, OR, 0]
    ready.outb(0x08, 4)
    ready.aim(512)
    assert ready.command(*place(READ))[:3] == [ABNORMAL, OR, 0]


# -- the disk fails --------------------------------------------------------------------------------


def test_a_bad_sector(ready: Bench) -> None:
    """What comes before it is read, and the result says which it is."""
    ready.puppet.holds = lambda name, first, count: first <= 4 < first + count
    ready.aim(10 * 512)
    ready.send(*place(READ))
    assert ready.inb(MSR) == EXECUTING
    while (held := ready.puppet.held) or ready.inb(MSR) == EXECUTING:
        for operation in held:
            operation.fail(MediumError(Medium.UNRECOVERED_READ, 4))
        ready.engine.turn(0)
    assert ready.result() == [ABNORMAL, DE, DD, 0, 0, 5, 2]
    assert ready.ram_at(4 * 512) == content(ready.ram)[: 4 * 512]


def test_a_track_is_read_past_a_bad_sector(ready: Bench) -> None:
    ready.puppet.holds = lambda name, first, count: first <= 4 < first + count
    ready.aim(18 * 512)
    ready.send(*place(READ_TRACK))
    while (held := ready.puppet.held) or ready.inb(MSR) == EXECUTING:
        for operation in held:
            operation.fail(MediumError(Medium.UNRECOVERED_READ, 4))
        ready.engine.turn(0)
    assert ready.result()[:3] == [ABNORMAL, DE, DD]
    assert ready.ram_at(13 * 512, BUFFER + 5 * 512) == content(ready.ram)[5 * 512 : 18 * 512]


@pytest.mark.parametrize("held_name", ["read", "write", "flush"])
def test_a_host_that_fails(ready: Bench, held_name: str) -> None:
    ready.puppet.holds = lambda name, first, count: name == held_name
    ready.aim(512, to_memory=held_name == "read")
    ready.send(*place(READ if held_name == "read" else WRITE))
    ready.engine.turn(0)
    ready.puppet.held[0].fail(IoError(5, "cable"))
    ready.engine.turn(0)
    assert ready.result()[:3] == [ABNORMAL, DE, DD]


def test_a_write_is_stable(engine: Engine) -> None:
    """Each command that has written ends with one flush, by DMA and by the FIFO."""
    recording = RecordingDisk(filled())
    recording.volatile_cache = True
    bench = Bench(engine, [FloppyDrive(recording)])
    bench.motors(0)
    bench.aim(4 * 512, to_memory=False)
    bench.command(*place(WRITE))
    bench.command(0x03, 0, 1)
    bench.send(*place(WRITE, eot=4))
    bench.outs(bytes(2048))
    bench.result()
    names = [call.name for call in recording.calls]
    assert names == ["write", "flush", *["write"] * 4, "flush"]


# -- by the FIFO -----------------------------------------------------------------------------------


def test_without_dma(ready: Bench) -> None:
    """Bytes by single accesses and by strings, and an interrupt for each sector."""
    ready.command(0x03, 0, 1)
    ready.send(*place(READ, eot=2))
    assert ready.inb(MSR) == DATA_IN
    assert ready.line.level
    data = bytes(ready.inb(0x3F5) for _ in range(100)) + ready.ins(924)
    assert data == content(ready.ram)[:1024]
    assert ready.result() == [ABNORMAL, EN, 0, 1, 0, 1, 2]
    ready.send(*place(WRITE, r=3, eot=3))
    assert ready.inb(MSR) == DATA_OUT
    new = noise(512, 3)
    ready.outs(new[:500])
    for byte in new[500:]:
        assert ready.line.level
        ready.ports.write(0x3F5, 1, byte)
    assert ready.result() == [ABNORMAL, EN, 0, 1, 0, 1, 2]
    assert content(ready.ram)[1024:1536] == new


# -- marks -----------------------------------------------------------------------------------------


def test_deleted_data(ready: Bench) -> None:
    """Table 5-4: what reads find where sectors 3 and 4 are deleted."""
    before = content(ready.ram)
    ready.aim(1024, to_memory=False)
    ready.store(before[1024:2048])
    assert ready.command(*place(WRITE_DELETED, r=3))[:3] == [0, 0, 0]
    cases = [
        (READ, 1, 3, [0, 0, CM, 0, 0, 3, 2], before[:1536]),
        (READ | SK, 1, 16, [0x40, EN, CM, 1, 0, 1, 2], before[:1024] + before[2048 : 18 * 512]),
        (READ_DELETED, 1, 1, [0, 0, CM, 0, 0, 1, 2], before[:512]),
        (READ_DELETED, 3, 3, [0, 0, CM, 0, 0, 5, 2], before[1024:2560]),
        (READ_DELETED | SK, 1, 2, [0x40, EN, CM, 1, 0, 1, 2], before[1024:2048]),
        (VERIFY, 1, 0, [0, 0, CM, 0, 0, 3, 2], b""),
    ]
    for opcode, r, sectors, told, data in cases:
        ready.aim(20 * 512)
        assert ready.command(*place(opcode, r=r)) == told, hex(opcode)
        assert ready.ram_at(sectors * 512) == data
    ready.aim(1024, to_memory=False)
    ready.store(before[1024:2048])
    ready.command(*place(WRITE, r=3))
    ready.aim(18 * 512)
    assert ready.command(*place(READ))[:3] == [0, 0, 0]


def test_format(ready: Bench) -> None:
    """The IDs come in any order; the fill byte goes everywhere, and marks are normal again."""
    before = content(ready.ram)
    ready.aim(512, to_memory=False)
    ready.command(*place(WRITE_DELETED, h=1))
    ids = b"".join(bytes((0, 1, 1 + at * 7 % 18, 2)) for at in range(18))
    ready.store(ids)
    ready.aim(len(ids), to_memory=False)
    assert ready.command(FORMAT, 4, 2, 18, 0x6C, 0xE5) == [4, 0, 0, 0, 1, 1, 2]
    after = content(ready.ram)
    assert after[18 * 512 : 36 * 512] == b"\xe5" * 18 * 512
    assert after[: 18 * 512] + after[36 * 512 :] == before[: 18 * 512] + before[36 * 512 :]
    ready.aim(512)
    assert ready.command(*place(READ, h=1))[:3] == [4, 0, 0]
    assert ready.command(0x0E)[6] == 18


@pytest.mark.parametrize(
    "bend",
    [(0, 1), (1, 1), (2, 2), (2, 19), (2, 0), (3, 3)],
    ids=["cylinder", "head", "twice", "beyond", "zero", "size"],
)
def test_a_track_that_an_image_cannot_hold(ready: Bench, bend: tuple[int, int]) -> None:
    before = content(ready.ram)
    ids = [bytearray((0, 0, r, 2)) for r in range(1, 19)]
    ids[0][bend[0]] = bend[1]
    ready.store(b"".join(ids))
    ready.aim(72, to_memory=False)
    assert ready.command(FORMAT, 0, 2, 18, 0x6C, 0xE5)[:3] == [ABNORMAL, ND, 0]
    assert ready.command(FORMAT, 0, 2, 9, 0x6C, 0xE5)[:3] == [ABNORMAL, ND, 0]
    ready.aim(71, to_memory=False)
    assert ready.command(FORMAT, 0, 2, 18, 0x6C, 0xE5)[:3] == [ABNORMAL, OR, 0]
    assert content(ready.ram) == before


def test_a_whole_track(ready: Bench) -> None:
    """READ TRACK begins at the index hole, and compares IDs."""
    ready.aim(18 * 512)
    assert ready.command(*place(READ_TRACK, eot=18))[:3] == [0, 0, 0]
    assert ready.ram_at(18 * 512) == content(ready.ram)[: 18 * 512]
    ready.aim(18 * 512)
    assert ready.command(*place(READ_TRACK, r=5, eot=3))[:3] == [ABNORMAL, ND, 0]
    assert ready.ram_at(3 * 512) == content(ready.ram)[: 3 * 512]
    ready.aim(40 * 512)
    assert ready.command(*place(READ_TRACK, eot=19))[:3] == [ABNORMAL, ND, 0]


@pytest.mark.parametrize(
    ("mt", "count", "eot", "st1"),
    [
        (0, None, 18, 0),
        (0, None, 19, ND),
        (0, 18, 18, 0),
        (0, 19, 18, EN),
        (MT, None, 18, 0),
        (MT, 36, 18, 0),
        (MT, 37, 18, EN),
        (MT, 0, 18, EN),
    ],
)
def test_verify(ready: Bench, mt: int, count: int | None, eot: int, st1: int) -> None:
    """Table 5-7: with EC a count of sectors ends it, 0 for 256."""
    counted = count is not None
    _, select, *rest = place(VERIFY, eot=eot, dtl=0xFF if count is None else count)
    st0, found, *_ = ready.command(VERIFY | mt, select | counted << 7, *rest)
    assert (st0 & 0xC0, found) == (ABNORMAL if st1 else 0, st1)


@pytest.mark.parametrize(
    ("opcode", "change", "st2"),
    [
        (SCAN_EQUAL, 0, SH),
        (SCAN_EQUAL, 1, SN),
        (SCAN_EQUAL, -1, SN),
        (SCAN_LOW, 0, SH),
        (SCAN_LOW, 1, 0),
        (SCAN_LOW, -1, SN),
        (SCAN_HIGH, 0, SH),
        (SCAN_HIGH, 1, SN),
        (SCAN_HIGH, -1, 0),
    ],
)
def test_scan(engine: Engine, opcode: int, change: int, st2: int) -> None:
    """The host's byte is greater or less by `change`; FF is equal to anything."""
    ram = RamDisk(HD.byte_count)
    bench = Bench(engine, [FloppyDrive(PuppetDisk(ram, lambda *_: False))])
    bench.motors(0)
    bench.store(b"\x10" * 512)
    bench.aim(512, to_memory=False)
    bench.command(*place(WRITE))
    host = bytearray(b"\x10" * 512)
    host[7] = 0xFF
    host[300] += change
    bench.store(bytes(host))
    bench.aim(512, to_memory=False)
    st0, st1, found, *_ = bench.command(*place(opcode, eot=1, dtl=1))
    assert (st0, st1, found) == (0, 0, st2)


@pytest.mark.parametrize(("step", "found"), [(1, 4), (2, 5)])
def test_scan_goes_on_until_it_finds(ready: Bench, step: int, found: int) -> None:
    sector = content(ready.ram)[(found - 1) * 512 : found * 512]
    ready.store(sector * 18)
    ready.aim(18 * 512, to_memory=False)
    assert ready.command(*place(SCAN_EQUAL, dtl=step)) == [0, 0, SH, 0, 0, found, 2]
    ready.store(bytes(18 * 512))
    ready.aim(18 * 512, to_memory=False)
    assert ready.command(*place(SCAN_EQUAL, r=2, dtl=step))[2] == SN


def test_a_result_is_there_to_be_read(ready: Bench) -> None:
    """The interrupt is up until its last byte was; bytes that nobody asked for are lost."""
    ready.aim(512)
    ready.send(*place(READ))
    for left in range(7, 0, -1):
        assert (ready.inb(MSR), ready.line.level) == (RESULT, True), left
        ready.outb(0x3F5, 0x10)
        ready.inb(0x3F5)
    assert (ready.inb(MSR), ready.line.level) == (IDLE, False)
    assert ready.inb(0x3F5) == 0
