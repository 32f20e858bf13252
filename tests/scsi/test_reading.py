"""Reading, and what keeps it from succeeding."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
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
from drivebay.disk.filters.base import Filter
from drivebay.scsi import cdb
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.cdb import ReadCdSelection
from drivebay.scsi.dvd.frame import frame
from drivebay.scsi.dvd.medium import msf
from drivebay.scsi.sense import CheckCondition
from drivebay.scsi.task import Direction
from drivebay.suspend import Cancelled, run
from drivebay.testing import PuppetDisk
from drivebay.wire import Struct
from tests.scsi.support import BLOCK, TEST_UNIT_READY, BigDisk, disc, perform, quiet, refused, sense

USER_DATA = ReadCdSelection.USER_DATA
GOOD = (0, 0, 0)
OUT_OF_RANGE = (5, 0x21, 0)
INVALID_FIELD = (5, 0x24, 0)


def read_cd(lba: int, count: int, selection: int = USER_DATA, flags: int = 0) -> mmc.ReadCd:
    return mmc.ReadCd(
        flags=flags,
        starting_logical_block_address=lba,
        transfer_length=count.to_bytes(3),
        selection=selection,
    )


def read_msf(lba: int, end: int, selection: int = USER_DATA) -> mmc.ReadCdMsf:
    return mmc.ReadCdMsf(
        starting_msf=bytes(msf(lba)), ending_msf=bytes(msf(end)), selection=selection
    )


def reads(lba: int, count: int) -> list[Struct]:
    """Every way to read `count` blocks from `lba` on."""
    return [
        cdb.Read10(logical_block_address=lba, transfer_length=count),
        cdb.Read12(logical_block_address=lba, transfer_length=count),
        read_cd(lba, count),
        read_msf(lba, lba + count),
    ]


@pytest.mark.parametrize("sector_size", [512, 1024, 2048])
@pytest.mark.parametrize(("lba", "count"), [(0, 1), (63, 1), (0, 64), (7, 20)])
def test_reads(sector_size: int, lba: int, count: int) -> None:
    disk, data = disc(64, sector_size)
    drive = quiet(disk)
    expected = data[lba * BLOCK : (lba + count) * BLOCK]
    for command in reads(lba, count):
        assert perform(drive, command) == expected, command


def test_reads_go_straight_into_the_buffers() -> None:
    seen: list[list[int]] = []

    class Watched(Filter):
        async def read(self, sector: int, buffers: Buffers) -> None:
            seen.append([id(buffer.obj) for buffer in buffers])
            await self.below.read(sector, buffers)

    disk, data = disc()
    drive = quiet(Watched(disk))
    first, second = bytearray(1000), bytearray(2 * BLOCK - 1000)
    task = drive.execute(cdb.Read10(transfer_length=2).pack())
    assert (task.direction, task.length) == (Direction.IN, 2 * BLOCK)
    run(task.transfer(0, [memoryview(first), memoryview(second)]))
    run(task.finish())
    assert bytes(first + second) == data[: 2 * BLOCK]
    assert seen == [[id(first), id(second)]]


@pytest.mark.parametrize("parts", [(2048,), (4096, 2048), (1, 2, 3), (2047, 2), (3000, 3000)])
def test_parts(parts: tuple[int, ...]) -> None:
    disk, data = disc()
    drive = quiet(disk)
    for command in reads(5, 4):
        assert perform(drive, command, parts=parts) == data[5 * BLOCK : 9 * BLOCK]


def test_a_part_that_is_not_of_the_task_is_our_mistake() -> None:
    task = quiet(disc()[0]).execute(cdb.Read10(transfer_length=1).pack())
    for offset, size in ((0, 2049), (2048, 2048), (-2048, 2048)):
        with pytest.raises(ValueError, match="of 2048"):
            run(task.transfer(offset, [memoryview(bytearray(size))]))


def test_hostile_5_ranges() -> None:
    drive = quiet(disc(64)[0])
    for lba, count in ((0, 1), (63, 1), (0, 64), (0, 0), (63, 0)):
        for command in reads(lba, count):
            assert sense(drive, command) == GOOD, command
    for lba, count in ((64, 1), (63, 2), (0, 65), (64, 0), (65, 0), (2**31, 1)):
        for command in reads(lba, count)[:3]:
            assert sense(drive, command) == OUT_OF_RANGE, command
        verify = cdb.Read10(0x2F, logical_block_address=lba, transfer_length=count)
        assert sense(drive, verify) == OUT_OF_RANGE
    for lba, expected in ((0, GOOD), (63, GOOD), (64, OUT_OF_RANGE), (2**32 - 1, OUT_OF_RANGE)):
        assert sense(drive, cdb.Cdb10(logical_block_address=lba)) == expected


@pytest.mark.parametrize("selection", [0x00, 0x10, 0xF8])
@pytest.mark.parametrize("lba", [0, 63, 64, 0xFFFFFFFF])
@pytest.mark.parametrize("count", [0, 1, 65, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF])
def test_hostile_2_2_atapi_read_with_any_lba_and_size(lba: int, count: int, selection: int) -> None:
    """CVE-2020-29443."""
    disk = BigDisk(64)
    drive = quiet(disk)
    asked: list[cdb.Read10 | cdb.Read12 | mmc.ReadCd] = [
        cdb.Read10(logical_block_address=lba, transfer_length=count & 0xFFFF),
        cdb.Read12(logical_block_address=lba, transfer_length=count),
        read_cd(lba, count & 0xFFFFFF, selection),
    ]
    for command in asked:
        wanted = command.transfer_length
        blocks = int.from_bytes(wanted) if isinstance(wanted, bytes) else wanted
        on_disc = lba + (blocks or 1) <= 64
        assert sense(drive, command) == (GOOD if on_disc else OUT_OF_RANGE), command
        assert sense(drive, TEST_UNIT_READY) == GOOD


def test_read_cd_of_what_is_not_on_the_disc() -> None:
    drive = quiet(disc()[0])
    assert perform(drive, read_cd(0, 4, 0x00)) == b""
    for kind, expected in ((0, GOOD), (1, (5, 0x64, 0)), (2, GOOD), (3, (5, 0x64, 0))):
        assert sense(drive, read_cd(0, 1, flags=kind << 2)) == expected
    assert sense(drive, read_cd(0, 1, flags=1)) == INVALID_FIELD
    for selection in (0x12, 0x14, 0x16):  # C2 errors
        assert sense(drive, read_cd(0, 1, selection)) == INVALID_FIELD
    for selection in (0x90, 0x88, 0xC8, 0xA8, 0x28):  # parts that do not adjoin
        assert sense(drive, read_cd(0, 1, selection)) == INVALID_FIELD, hex(selection)
    sub_channels = read_cd(0, 1)
    sub_channels.sub_channel_selection = 1
    assert sense(drive, sub_channels) == INVALID_FIELD


@pytest.mark.parametrize(
    ("selection", "part"),
    [
        (0xF8, slice(0, 2352)),
        (0xB8, slice(0, 2352)),
        (0x80, slice(0, 12)),
        (0x20, slice(12, 16)),
        (0xA0, slice(0, 16)),
        (0x30, slice(12, 2064)),
        (0x50, slice(16, 2064)),
        (0x18, slice(16, 2352)),
        (0x08, slice(2064, 2352)),
        (0x40, slice(0, 0)),
    ],
)
def test_parts_of_sectors(selection: int, part: slice) -> None:
    disk, data = disc(64)
    drive = quiet(disk)
    expected = b"".join(frame(lba, data[lba * BLOCK : (lba + 1) * BLOCK])[part] for lba in (62, 63))
    assert perform(drive, read_cd(62, 2, selection)) == expected
    assert perform(drive, read_msf(62, 64, selection), parts=(2000, 13)) == expected


def test_sectors_are_those_of_a_cd() -> None:
    assert sense(quiet(BigDisk(2_000_000)), read_cd(0, 1)) == GOOD
    assert sense(quiet(BigDisk(2_000_000)), read_cd(0, 1, 0xF8)) == (5, 0x64, 0)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (b"\0\1\0", b"\0\2\0"),  # the pregap
        (b"\0\2\1", b"\0\2\0"),
        (b"\0\74\0", b"\1\2\0"),
        (b"\0\2\0", b"\0\2\113"),
        (b"\377\377\377", b"\377\377\377"),
    ],
)
def test_read_cd_msf_of_times_that_are_none(start: bytes, end: bytes) -> None:
    asked = mmc.ReadCdMsf(starting_msf=start, ending_msf=end, selection=USER_DATA)
    assert sense(quiet(disc()[0]), asked) == INVALID_FIELD


def test_read_flags() -> None:
    drive = quiet(disc()[0])
    assert sense(drive, cdb.Read10(flags=0x18, transfer_length=1)) == GOOD
    assert sense(drive, cdb.Read10(flags=0x01, transfer_length=1)) == INVALID_FIELD


def test_verify_reads() -> None:
    disk = PuppetDisk(disc(64)[0], holds=lambda name, sector, count: False)
    drive = quiet(disk)
    assert sense(drive, cdb.Read10(0x2F, transfer_length=64)) == GOOD
    assert sense(drive, cdb.Read10(0x2F, flags=2, transfer_length=64)) == INVALID_FIELD
    bad = quiet(Failing(MediumError(Medium.UNRECOVERED_READ, 4 * 40), at=40))
    assert refused(bad, cdb.Read10(0x2F, transfer_length=64)).information == 40


# -- failing disks -------------------------------------------------------------------------------


class Failing(RamDisk):
    """A disc of 64 blocks whose reads of block `at` and beyond fail with `error`."""

    def __init__(self, error: DiskError, at: int = 0) -> None:
        super().__init__(64 * BLOCK)
        self._error, self._at = error, at

    async def read(self, sector: int, buffers: Buffers) -> None:
        if sector + sum(map(len, buffers)) // 512 > self._at * 4:
            raise self._error


def test_hostile_4_8_every_error_has_its_sense() -> None:
    known: dict[DiskError, tuple[int, int, int, int | None]] = {
        IoError(errno.EIO, "read"): (3, 0x11, 0, 3),
        NoSpace(errno.ENOSPC, "read"): (3, 0x11, 0, 3),
        MediumError(Medium.UNRECOVERED_READ): (3, 0x11, 0, 3),
        MediumError(Medium.UNRECOVERED_READ, 19): (3, 0x11, 0, 4),
        MediumError(Medium.WRITE_FAULT): (3, 0x03, 0, 3),
        MediumError(Medium.GUARD_CHECK): (3, 0x10, 1, 3),
        MediumError(Medium.APPLICATION_TAG): (3, 0x10, 2, 3),
        MediumError(Medium.REFERENCE_TAG): (3, 0x10, 3, 3),
        IllegalBlock(12, 4, 8): (5, 0x21, 0, None),
        InvalidInput("no"): (5, 0x24, 0, None),
        MemoryAccess("gone"): (0xB, 0x4B, 0, None),
        ReadOnly("no"): (7, 0x27, 0, None),
        ReservationConflict("no"): (4, 0x44, 0, None),
        AbortedByPreempt("no"): (4, 0x44, 0, None),
    }
    for error, expected in known.items():
        drive = quiet(Failing(error))
        for command in reads(3, 2):
            assert tuple(refused(drive, command)) == expected, error
        assert sense(drive, TEST_UNIT_READY) == GOOD


def test_hostile_4_8_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    path = tmp_path / "disc.iso"
    path.write_bytes(bytes(64 * BLOCK))
    drive = quiet(FileDisk(str(path), read_only=True))
    os.truncate(path, 32 * BLOCK)
    assert sense(drive, cdb.Read10(transfer_length=32)) == GOOD
    sensed = refused(drive, cdb.Read10(logical_block_address=40, transfer_length=1))
    assert sensed[:3] == (3, 0x11, 0)


def test_hostile_4_8_held_reads_end_as_they_end() -> None:
    puppet = PuppetDisk(disc()[0])
    drive = quiet(puppet)
    buffer = memoryview(bytearray(BLOCK))
    task = drive.execute(cdb.Read10(logical_block_address=3, transfer_length=1).pack())
    step = task.transfer(0, [buffer])
    held = step.send(None)
    held.begin(None, lambda value, error: None)
    drive.reset()  # while the disk is busy
    with pytest.raises(CheckCondition) as caught:
        step.throw(IoError(errno.EIO, "cable"))
    assert caught.value.sense[:4] == (3, 0x11, 0, 3)
    assert bytes(buffer) == bytes(BLOCK)
    puppet.holds = lambda name, sector, count: False
    assert sense(drive, cdb.Read10(transfer_length=1)) == (6, 0x29, 0)
    assert sense(drive, cdb.Read10(transfer_length=1)) == GOOD


# -- a medium that goes away ---------------------------------------------------------------------


@pytest.mark.parametrize("command", reads(2, 4), ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("then", ["open", "removed", "another"])
def test_hostile_4_6_media_removed_at_every_step(command: Struct, step: int, then: str) -> None:
    disk, data = disc()
    drive = quiet(disk)

    def go(now: int) -> None:
        if now == step:
            drive.open_tray(force=True)
            if then != "open":
                drive.remove()
            if then == "another":
                drive.insert(RamDisk(64 * BLOCK))

    buffer = bytearray(4 * BLOCK)
    refusals = []
    task = drive.execute(command.pack())
    for part in range(4):
        go(part)
        at = part * BLOCK
        try:
            run(task.transfer(at, [memoryview(buffer)[at : at + BLOCK]]))
        except CheckCondition as condition:
            refusals.append(condition.sense)
            break
    go(4)
    if not refusals:
        run(task.finish())
    go(5)
    assert bool(refusals) == (step < 4)
    assert all(sensed[:2] == (2, 0x3A) for sensed in refusals)
    kept = min(step, 4) * BLOCK
    assert buffer[:kept] == data[2 * BLOCK :][:kept]
    assert not any(buffer[kept:]), "nothing of another disc"
    drive.insert(disk)
    assert sense(drive, TEST_UNIT_READY) == (6, 0x28, 0)
    assert perform(drive, command) == data[2 * BLOCK : 6 * BLOCK]


def test_hostile_4_6_media_removed_while_the_disk_reads() -> None:
    puppet = PuppetDisk(disc()[0])
    drive = quiet(puppet)
    released: list[Disk] = []
    task = drive.execute(cdb.Read10(transfer_length=2).pack())
    buffer = memoryview(bytearray(BLOCK))
    step = task.transfer(0, [buffer])
    step.send(None)
    assert drive.remove(released=released.append) is puppet
    assert not released, "it must not be closed yet"
    with pytest.raises(StopIteration):  # the block was on its way
        step.send(None)
    assert released == [puppet]
    with pytest.raises(CheckCondition):
        run(task.transfer(BLOCK, [buffer]))


def test_a_read_that_is_given_up_lets_go_of_the_disk() -> None:
    puppet = PuppetDisk(disc()[0])
    drive = quiet(puppet)
    task = drive.execute(cdb.Read10(transfer_length=1).pack())
    step = task.transfer(0, [memoryview(bytearray(BLOCK))])
    step.send(None)
    released: list[Disk] = []
    drive.insert(disc()[0], released=released.append)
    with pytest.raises(Cancelled):
        step.throw(Cancelled)
    assert released == [puppet]
    other = drive.disk
    drive.remove(released=released.append)
    assert released == [puppet, other], "at once"


def test_hostile_4_11_small_parts_of_many_sectors_take_little_memory() -> None:
    drive = quiet(BigDisk(300))
    task = drive.execute(read_cd(0, 300, ReadCdSelection.SYNC).pack())
    buffer = bytearray(task.length)
    tracemalloc.start()
    run(task.transfer(0, [memoryview(buffer)]))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert buffer == frame(0, bytes(BLOCK))[:12] * 300
    assert peak < 256 << 10
