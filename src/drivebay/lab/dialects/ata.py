"""ATA: the task file as a command was issued; Status and Error as it ended.

What a packet holds is SCSI: its CDB is read by that dialect, and rules may name both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from drivebay.ata.command import Protocol
from drivebay.ata.disk import ACCESSES
from drivebay.ata.ncq import QUEUED
from drivebay.ata.registers import DeviceRegister, Error, Opcode, Status, name_of
from drivebay.ata.taskfile import TaskFile
from drivebay.lab.dialects import Ended, scsi
from drivebay.lab.rules import (
    ACTIONS,
    FLUSH,
    IO,
    OPCODE,
    READ,
    WRITE,
    Direction,
    Subject,
    Vocabulary,
)

__all__ = ["VOCABULARY", "describe", "is_48_bit", "outcome"]

FPDMA: Final = (Opcode.READ_FPDMA_QUEUED, Opcode.WRITE_FPDMA_QUEUED)
READS: Final = frozenset(
    {
        Opcode.READ_FPDMA_QUEUED,
        *(
            opcode
            for opcode, access in ACCESSES.items()
            if access.protocol in (Protocol.PIO_IN, Protocol.DMA_IN)
        ),
    }
)
WRITES: Final = frozenset({Opcode.WRITE_FPDMA_QUEUED, *ACCESSES.keys() - READS})
FLUSHES: Final = frozenset({Opcode.FLUSH_CACHE, Opcode.FLUSH_CACHE_EXT})
VERIFIES: Final[dict[int, bool]] = {
    Opcode.READ_VERIFY_SECTORS: False,
    Opcode.READ_VERIFY_SECTORS_ONCE: False,
    Opcode.READ_VERIFY_SECTORS_EXT: True,
}
"""Whether they have 48-bit addresses."""
MEDIUM: Final = frozenset(
    {*READS, *WRITES, *FLUSHES, *VERIFIES, Opcode.DATA_SET_MANAGEMENT, Opcode.SEND_FPDMA_QUEUED}
)
OTHER_DIRECTIONS: Final[dict[int, Direction]] = {
    Opcode.IDENTIFY_DEVICE: Direction.READ,
    Opcode.IDENTIFY_PACKET_DEVICE: Direction.READ,
    Opcode.READ_BUFFER: Direction.READ,
    Opcode.READ_LOG_EXT: Direction.READ,
    Opcode.READ_LOG_DMA_EXT: Direction.READ,
    Opcode.WRITE_BUFFER: Direction.WRITE,
    Opcode.WRITE_LOG_EXT: Direction.WRITE,
    Opcode.WRITE_LOG_DMA_EXT: Direction.WRITE,
    Opcode.DATA_SET_MANAGEMENT: Direction.WRITE,
    Opcode.SEND_FPDMA_QUEUED: Direction.WRITE,
    Opcode.RECEIVE_FPDMA_QUEUED: Direction.READ,
}
ERRORS: Final = ("ICRC", "UNC", "MC", "IDNF", "MCR", "ABRT", "NM")
"""Bits of the Error register that a rule may set. The senses are those of packets."""
ERR, DF = int(Status.ERR), int(Status.DF)
LBA: Final = int(DeviceRegister.LBA)
FIELDS: Final = ("features", "count", "lba", "device", "auxiliary")
VOCABULARY: Final = Vocabulary(
    controller="ata",
    groups=frozenset({IO, READ, WRITE, FLUSH}),
    unnamed=frozenset({OPCODE}),
    commands=frozenset(Opcode.__members__) | scsi.VOCABULARY.commands,
    statuses=frozenset(ERRORS) | scsi.SENSES.keys(),
    fields=frozenset(FIELDS) | scsi.VOCABULARY.fields,
    changes=frozenset(FIELDS),
    place="port",
    actions=ACTIONS - {"duplicate"},
)


def describe(queue: int, command: TaskFile, controller: str = "ata") -> Subject:
    """A command by its task file. A cylinder, head and sector is no LBA before the drive has a
    geometry: that command has none here.
    """
    number = command.command
    if number == Opcode.PACKET and command.packet:
        inner = scsi.describe(queue, command.packet, controller)
        return replace(inner, groups=inner.groups | {Opcode.PACKET.name}, place="port")
    if number in QUEUED or number in Opcode._value2member_map_:
        name = Opcode(number).name
    else:
        known = name_of(number)
        name = f"{OPCODE}-{number:#04x}" if known.startswith("command") else known.replace(" ", "_")
    lba, count = span_of(command)
    groups = {
        group
        for group, members in ((READ, READS), (WRITE, WRITES), (FLUSH, FLUSHES), (IO, MEDIUM))
        if number in members
    }
    direction = Direction.READ if number in READS else OTHER_DIRECTIONS.get(number)
    return Subject(
        controller,
        name,
        frozenset(groups),
        queue,
        lba=lba,
        count=count,
        direction=Direction.WRITE if number in WRITES else direction,
        value=value_of(command),
        place="port",
    )


def value_of(taskfile: TaskFile) -> Callable[[str], int]:
    """Gives the registers of a task file; the bytes of a packet are none of it."""

    def value(name: str) -> int:
        if name == "lba":
            return taskfile.lba48
        return int(getattr(taskfile, name)) if name in FIELDS else 0

    return value


def is_48_bit(taskfile: TaskFile) -> bool:
    """Whether a command on a range of sectors addresses them by 48 bits."""
    number = taskfile.command
    access = ACCESSES.get(number)
    return number in FPDMA or (access.ext if access is not None else VERIFIES.get(number, False))


def span_of(taskfile: TaskFile) -> tuple[int | None, int]:
    """First sector and how many, of commands that name them by LBA."""
    number = taskfile.command
    if number in FPDMA:
        return taskfile.lba48, taskfile.features or 0x10000
    if number not in ACCESSES and number not in VERIFIES:
        return None, 0
    if is_48_bit(taskfile):
        return taskfile.lba48, taskfile.count or 0x10000
    count = taskfile.count & 0xFF or 0x100
    return (taskfile.lba28 if taskfile.device & LBA else None), count


def outcome(outcome: tuple[int, int]) -> Ended:
    """Status and Error."""
    status, error = outcome
    if not status & (ERR | DF):
        return Ended("OK", True)
    found = [name for name in ERRORS if error & getattr(Error, name)] if status & ERR else []
    if status & DF:
        found.append("DF")
    return Ended("+".join(found) or "ERR", False)
