"""What each dialect makes of the commands that a core shows, and of how they ended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.ata.taskfile import TaskFile
from drivebay.lab.dialects import Dialect, ata, floppy, nvme, scsi, virtio
from drivebay.lab.rules import Direction
from drivebay.scsi.sense import UNRECOVERED_READ_ERROR, Sense, SenseKey
from drivebay.scsi.status import Status
from drivebay.scsi.target import Outcome

READ, WRITE = Direction.READ, Direction.WRITE
DIALECTS: tuple[Dialect, ...] = (ata, floppy, nvme, scsi, virtio)


def taskfile(command: int, *, lba: int = 0, count: int = 0, features: int = 0) -> TaskFile:
    found = TaskFile()
    found.device = 0x40
    found.lba48 = lba
    found.command, found.count, found.features = command, count, features
    return found


@pytest.mark.parametrize(
    ("dialect", "queue", "command", "text", "direction"),
    [
        (
            nvme, 3, (1, 0, 7, 1, 0, 0, 0, 0, 0, 9, 1, 7, 0, 0, 0),
            f"nvme WRITE queue 3 nsid 1 lba {(1 << 32) + 9}+8", WRITE,
        ),
        (nvme, 0, (6, *(0,) * 14), "nvme IDENTIFY queue 0", READ),
        (nvme, 0, (0xC1, *(0,) * 14), "nvme ADMIN-0xc1 queue 0", WRITE),
        (virtio, 1, (0, 8, 4096), "virtio-blk IN queue 1 lba 8+8", READ),
        (virtio, 0, (13, 0, 16), "virtio-blk WRITE_ZEROES queue 0", WRITE),
        (virtio, 0, (99, 0, 0), "virtio-blk OPCODE-0x63 queue 0", None),
        (virtio, 0, (-2, 0, 0), "virtio-blk MALFORMED queue 0", None),
        (scsi, 5, bytes.fromhex("28000000010000000800"), "scsi READ_10 lun 5 lba 256+8", READ),
        (scsi, 0, bytes.fromhex("0a0001020000"), "scsi WRITE_6 lun 0 lba 258+256", WRITE),
        (
            scsi, 0, bytes.fromhex("8a0000000001000000050000000a0000"),
            f"scsi WRITE_16 lun 0 lba {(1 << 32) + 5}+10", WRITE,
        ),
        (scsi, 0, bytes.fromhex("9e10") + bytes(14), "scsi READ_CAPACITY_16 lun 0", READ),
        (scsi, 0, b"\x28\0", "scsi READ_10 lun 0", READ),
        (scsi, 0, b"\xc1", "scsi OPCODE-0xc1 lun 0", None),
        (scsi, 0, b"", "scsi TEST_UNIT_READY lun 0", None),
        (ata, 1, taskfile(0x25, lba=1 << 40, count=8), f"ata READ_DMA_EXT port 1 lba {1 << 40}+8",
         READ),
        (ata, 0, taskfile(0xCA, lba=7), "ata WRITE_DMA port 0 lba 7+256", WRITE),
        (ata, 0, taskfile(0x61, lba=3, features=16, count=5 << 3),
         "ata WRITE_FPDMA_QUEUED port 0 lba 3+16", WRITE),
        (ata, 0, taskfile(0x17), "ata RECALIBRATE port 0", None),
        (ata, 0, taskfile(0xFF), "ata OPCODE-0xff port 0", None),
        (floppy, 0, bytes.fromhex("e6050a0103024f1bff"), "floppy READ_DATA drive 1", READ),
        (floppy, 0, b"\x08", "floppy SENSE_INTERRUPT_STATUS drive 0", None),
        (floppy, 0, b"\xff", "floppy OPCODE-0xff drive 0", None),
    ],
)  # fmt: skip
def test_commands(
    dialect: Dialect, queue: int, command: object, text: str, direction: Direction | None
) -> None:
    subject = dialect.describe(queue, command)
    assert str(subject) == text
    assert subject.direction is direction
    assert str(dialect.describe(queue, command, "left")) == f"left {text.partition(' ')[2]}"


def test_a_cylinder_head_and_sector_is_no_lba() -> None:
    command = taskfile(0x20, lba=0x010203, count=1)
    command.device = 0xA0
    assert ata.describe(0, command).lba is None


def test_fields() -> None:
    assert nvme.describe(1, (2, *(0,) * 8, 5, 0, 7, 0, 0, 0)).value("nlb") == 8  # type: ignore[misc]
    assert virtio.describe(0, (0, 8, 512)).value("sector") == 8  # type: ignore[misc]
    cdb = scsi.describe(0, b"\x1a\x00\x08\x00\x04\x00").value
    assert cdb is not None
    assert (cdb("cdb2"), cdb("cdb15")) == (8, 0)
    found = ata.describe(0, taskfile(0xEF, features=0x82, lba=3)).value
    assert found is not None
    assert (found("features"), found("lba"), found("cdb0")) == (0x82, 3, 0)
    read = floppy.describe(0, bytes.fromhex("e6050a0103024f1bff")).value
    assert read is not None
    assert [read(name) for name in ("cylinder", "head", "sector")] == [10, 1, 3]


def checked(sense: Sense, *, fixed: bool = True) -> Outcome:
    data = sense.fixed() if fixed else sense.descriptor()
    return Outcome(Status.CHECK_CONDITION, data)


@pytest.mark.parametrize(
    ("dialect", "outcome", "status"),
    [
        (nvme, (0, 0), "SUCCESS"),
        (nvme, (0, 0x4281), "UNRECOVERED_READ_ERROR"),
        (nvme, (0, 0x7FF), "status 0x7ff"),
        (virtio, 0, "OK"),
        (virtio, 1, "IOERR"),
        (scsi, Outcome(Status.GOOD), "GOOD"),
        (scsi, Outcome(Status.BUSY), "BUSY"),
        (scsi, Outcome(Status.GOOD, overrun=True), "OVERRUN"),
        (scsi, checked(UNRECOVERED_READ_ERROR), "UNRECOVERED_READ_ERROR"),
        (scsi, checked(UNRECOVERED_READ_ERROR, fixed=False), "UNRECOVERED_READ_ERROR"),
        (scsi, checked(Sense(SenseKey.NOT_READY, 0x99, 1)), "NOT_READY 99/01"),
        (scsi, Outcome(Status.CHECK_CONDITION), "CHECK_CONDITION"),
        (ata, (0x50, 0), "OK"),
        (ata, (0x51, 0x14), "IDNF+ABRT"),
        (ata, (0x70, 0), "DF"),
        (ata, (0x51, 0), "ERR"),
        (floppy, bytes(7), "OK"),
        (floppy, bytes((0x40, 0x20, 0x20, 0, 0, 0, 0)), "DE+DD"),
        (floppy, b"\x80", "INVALID"),
        (floppy, b"\x90", "OK"),
    ],
)
def test_outcomes(dialect: Dialect, outcome: object, status: str) -> None:
    ended = dialect.outcome(outcome)
    assert str(ended) == status
    assert ended.ok == (status in ("SUCCESS", "OK", "GOOD"))


def test_what_is_shown_can_be_named() -> None:
    """Every command that has a name is in the vocabulary by it, and so are its other names."""
    for number in range(256):
        subjects = {
            nvme: nvme.describe(number & 1, (number, *(0,) * 14)),
            virtio: virtio.describe(0, (number, 0, 0)),
            scsi: scsi.describe(0, bytes((number,)) * 16),
            ata: ata.describe(0, taskfile(number)),
            floppy: floppy.describe(0, bytes((number, 0))),
        }
        for dialect, subject in subjects.items():
            words = dialect.VOCABULARY
            known = words.commands | words.groups
            prefix, _, hexadecimal = subject.command.partition("-0x")
            assert subject.command in known or (prefix in words.unnamed and hexadecimal)
            assert subject.groups <= known, (dialect, subject)


@given(st.binary(max_size=32), st.binary(max_size=300))
def test_any_bytes_are_a_command_and_an_end(command: bytes, sense: bytes) -> None:
    assert str(scsi.describe(0, command))
    assert str(scsi.outcome(Outcome(Status.CHECK_CONDITION, sense)))
    assert str(floppy.outcome(command))
    if command:
        subject = floppy.describe(0, command)
        assert subject.value is None or subject.value("sector") >= 0
