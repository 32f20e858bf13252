"""Whatever bytes come, the unit answers and is usable afterwards (hostile.md)."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import fields

import pytest

from drivebay.scsi import cdb
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.commands import COMMANDS
from drivebay.scsi.opcodes import Opcode, cdb_length
from drivebay.scsi.sense import CheckCondition
from drivebay.scsi.task import Direction, Task
from drivebay.suspend import run
from drivebay.wire import Struct
from tests.scsi.support import BigDisk, disc, perform, quiet, sense

ILLEGAL_CODE = (5, 0x20, 0)
INVALID_FIELD = (5, 0x24, 0)
MOST = 64 * 2352  # bytes of data that a test moves at once


def drives() -> Iterator[Dvd]:
    yield quiet(disc(64)[0])
    yield quiet()
    yield quiet(BigDisk(2_000_000))


def check_usable(drive: Dvd) -> None:
    """It still says who it is, and a reset brings it back."""
    assert perform(drive, cdb.Inquiry(allocation_length=36))[8:16] == b"drivebay"
    drive.reset()
    drive.close_tray()
    for _ in range(3):
        sense(drive, bytes(6))
    expected = (2, 0x3A, 1) if drive.disk is None else (0, 0, 0)
    assert sense(drive, bytes(6)) == expected
    assert len(drive._attentions) <= 2
    assert len(drive.events.media) <= 3


def drain(task: Task, rng: random.Random) -> None:
    """Move as much of the data as a test has time for, in parts of any size, and finish."""
    offset = 0
    end = min(task.length, MOST)
    while offset < end:
        part = min(rng.choice((1, 100, 2048, 65536)), end - offset)
        run(task.transfer(offset, [memoryview(bytearray(rng.randbytes(part)))]))
        offset += part
    if rng.random() < 0.9:
        run(task.finish())


def test_hostile_2_2_every_opcode_of_any_length() -> None:
    """256 opcodes x lengths 0..16 x random bytes; also CVE-2015-6855 (empty drive)."""
    rng = random.Random(2)
    for drive in drives():
        for opcode in range(256):
            for length in range(17):
                for filler in (b"\0", b"\xff", None):
                    body = filler * 15 if filler else rng.randbytes(15)
                    with contextlib.suppress(CheckCondition):
                        task = drive.execute(bytes([opcode, *body])[:length])
                        assert task.length == 0 or task.direction is not Direction.NONE
                        drain(task, rng)
            check_usable(drive)


def test_hostile_2_2_the_length_of_a_reply_is_exact() -> None:
    """OpenVMM 1e0034928: what is announced is what is written."""
    rng = random.Random(3)
    for drive in drives():
        for _ in range(4000):
            opcode = rng.choice(list(Opcode))
            with contextlib.suppress(CheckCondition):
                task = drive.execute(bytes([opcode, *rng.randbytes(15)]))
                if task.direction is not Direction.IN or task.length > MOST:
                    continue
                one, two = bytearray(task.length), bytearray(b"\xff" * task.length)
                for buffer in (one, two):
                    run(task.transfer(0, [memoryview(buffer)]))
                if not isinstance(drive.disk, BigDisk):  # which leaves buffers alone
                    assert one == two, "every byte is written"


@pytest.mark.parametrize("opcode", range(256))
def test_hostile_2_6_a_cdb_cut_at_every_length(opcode: int) -> None:
    drive = quiet(disc()[0])
    needed = COMMANDS[opcode].cdb.size if opcode in COMMANDS else None
    for length in range(1, 17):
        found = sense(drive, bytes([opcode, *bytes(15)])[:length])
        if needed is None:
            assert found == ILLEGAL_CODE
        elif length < needed:
            assert found == INVALID_FIELD
    assert sense(drive, b"") == INVALID_FIELD
    check_usable(drive)


def test_a_cdb_is_as_long_as_its_group_says() -> None:
    for opcode, command in COMMANDS.items():
        assert command.cdb.size == cdb_length(opcode), Opcode(opcode).name
        names = [field.name for field in fields(command.cdb)]  # type: ignore[arg-type]
        assert names[0] == "operation_code"
    assert cdb_length(0x7F) is cdb_length(0xC0) is None
    assert cdb_length(0x88) == 16


def limited() -> Iterator[Struct]:
    """Every command whose CDB has an allocation length."""
    yield cdb.RequestSense()
    yield cdb.RequestSense(desc=1)
    yield cdb.Inquiry()
    yield from (cdb.Inquiry(flags=1, page_code=code) for code in (0x00, 0x80, 0x83))
    for control in (0x00, 0x40, 0x80):
        for code in (0x01, 0x1A, 0x1D, 0x2A, 0x3F):
            yield cdb.ModeSense6(page=control | code)
            yield cdb.ModeSense10(page=control | code)
    yield from (mmc.GetConfiguration(flags=kind) for kind in (0, 1, 2))
    yield from (mmc.ReadTocPmaAtip(format=code) for code in (0, 1, 2))
    yield from (mmc.ReadTocPmaAtip(flags=2, format=code) for code in (0, 1, 2))
    for code in (1, 2, 3):
        yield mmc.ReadSubChannel(subq=0x40, format=code, track_number=1)
    yield mmc.GetEventStatusNotification(flags=1, notification_class_request=0x10)
    yield mmc.ReadDiscInformation()
    yield mmc.ReadTrackInformation(flags=1, logical_block_address_track_session_number=1)
    yield from (mmc.ReadDiscStructure(format=code) for code in (0, 1, 4, 0xFF))
    yield mmc.ReadBufferCapacity()
    yield mmc.MechanismStatus()
    yield cdb.ReportLuns()


@pytest.mark.parametrize("command", list(limited()), ids=lambda command: type(command).__name__)
def test_hostile_2_6_every_allocation_length(command: Struct) -> None:
    drive = quiet(BigDisk(2_000_000))
    drive.identity = Dvd(serial="DB-17").identity
    widest = 0xFF if command.size == 6 and not isinstance(command, cdb.Inquiry) else 0xFFFF
    command.allocation_length = widest  # type: ignore[attr-defined]
    task = drive.execute(command.pack())
    whole = bytearray(task.length)
    run(task.transfer(0, [memoryview(whole)]))  # not finished: events are still there
    for length in (*range(256), 0x100, widest):
        command.allocation_length = min(length, widest)  # type: ignore[attr-defined]
        task = drive.execute(command.pack())
        assert task.length == min(length, len(whole))
        shown = bytearray(task.length)
        run(task.transfer(0, [memoryview(shown)]))
        assert shown == whole[: len(shown)]


@pytest.mark.parametrize(
    "command",
    [
        cdb.ModeSelect6(parameter_list_length=16),
        cdb.ModeSelect10(parameter_list_length=20),
        mmc.SetStreaming(parameter_list_length=28),
    ],
    ids=lambda command: type(command).__name__,
)
def test_hostile_2_6_a_parameter_list_shorter_than_announced(command: Struct) -> None:
    drive = quiet(disc()[0])
    before = drive.save()
    length = drive.execute(command.pack()).length
    for size in range(length):
        assert sense(drive, command, bytes(size)) == (5, 0x1A, 0)
    assert drive.save() == before


def test_hostile_2_6_the_block_length_cannot_be_changed() -> None:
    """CVE-2023-42467."""
    drive = quiet(disc(64)[0])
    for length in (0, 1, 512, 4096, 0xFFFFFF):
        data = bytes([0, 0, 0, 8]) + bytes(5) + length.to_bytes(3)
        asked = cdb.ModeSelect6(parameter_list_length=len(data))
        assert sense(drive, asked, data) == (5, 0x26, 0)
        assert perform(drive, bytes([0x25, *bytes(9)])) == bytes.fromhex("0000003f 00000800")


def test_hostile_4_12_mode_select_of_anything() -> None:
    rng = random.Random(5)
    drive = quiet(disc()[0])
    pages = perform(drive, cdb.ModeSense10(page=0x3F, allocation_length=0xFFFF))
    for _ in range(3000):
        data = bytearray(bytes(8) + pages[8:])[: rng.randrange(9, 80)]
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        key, code, _ = sense(drive, cdb.ModeSelect10(parameter_list_length=len(data)), bytes(data))
        assert (key, code) in ((0, 0), (5, 0x1A), (5, 0x26))
        now = perform(drive, cdb.ModeSense10(page=0x3F, allocation_length=0xFFFF))
        assert len(now) == len(pages)
    check_usable(drive)


def test_hostile_4_11_events_do_not_pile_up() -> None:
    drive = Dvd(disc()[0])
    for _ in range(1000):
        drive.open_tray()
        drive.close_tray()
        drive.reset()
        drive.lock(True)
        with contextlib.suppress(Exception):
            drive.open_tray()
        drive.lock(False)
    check_usable(drive)
