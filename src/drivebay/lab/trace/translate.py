"""Commands of ATA and virtio-blk as SCSI has them, for those who read SCSI only.

What reads, writes, verifies, flushes or discards blocks has its like in SBC-3 (and SAT-4 section 9
says which); other ATA commands go into ATA PASS-THROUGH (16) whole (section 12.2.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from drivebay.ata.command import Aborted
from drivebay.ata.passthrough.cdb import AtaPassThrough16, ProtocolByte, encode
from drivebay.ata.passthrough.sense import AtaReturn
from drivebay.ata.passthrough.table import lookup
from drivebay.ata.registers import Error
from drivebay.ata.registers import Status as AtaStatus
from drivebay.ata.taskfile import TaskFile
from drivebay.controllers.virtio.registers import BlockStatus, BlockType
from drivebay.lab.dialects import ata, scsi, virtio
from drivebay.lab.rules import Direction
from drivebay.scsi import cdb as cdbs
from drivebay.scsi import sense as senses
from drivebay.scsi.disk.cdb import Read16, Unmap, WriteSameFlags
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.sense import DescriptorSense, FixedSense, Sense, SenseKey
from drivebay.scsi.status import Status
from drivebay.scsi.target import Outcome

__all__ = ["Cdb", "scsi_command", "scsi_outcome"]

VENDOR: Final = 0xC0
"""An operation code for what has no like: the first of the vendors' own (SAM-5 section 5.2.1)."""
FAILED: Final = int(AtaStatus.ERR | AtaStatus.DF)
DESIGNATOR: Final = 0x83  # the vital product page that says who a unit is


class Cdb(NamedTuple):
    """A command: its data is blocks, or nothing is known of it."""

    lun: int
    cdb: bytes
    blocks: int = 0
    inward: bool | None = None


def scsi_command(dialect: str, queue: int, command: Any) -> Cdb:
    """A command as SCSI has it."""
    return _COMMANDS[dialect](queue, command)


def scsi_outcome(dialect: str, command: Any, outcome: Any) -> tuple[int, bytes]:
    """Status and sense."""
    return _OUTCOMES[dialect](command, outcome)


def _blocks(described: Any) -> tuple[int, bool | None]:
    """Of a command that reads or writes them."""
    if described.lba is None or described.direction is None:
        return 0, None
    return described.count, described.direction is Direction.READ


def _ranged(opcode: Opcode, first: int, count: int) -> bytes:
    return Read16(opcode, 0, first, count).pack()


# -- SCSI ----------------------------------------------------------------------------------------


def _scsi(lun: int, cdb: bytes) -> Cdb:
    return Cdb(lun, cdb, *_blocks(scsi.describe(lun, cdb)))


def _scsi_outcome(_cdb: bytes, outcome: Outcome) -> tuple[int, bytes]:
    return outcome.status, outcome.sense


# -- ATA -----------------------------------------------------------------------------------------


LIKE_ATA: Final = {
    ata.READS: Opcode.READ_16,
    ata.WRITES: Opcode.WRITE_16,
    frozenset(ata.VERIFIES): Opcode.VERIFY_16,
}


def _ata(queue: int, taskfile: TaskFile) -> Cdb:
    described = ata.describe(queue, taskfile)
    if taskfile.packet:
        return Cdb(0, taskfile.packet, *_blocks(described))
    if taskfile.command in ata.FLUSHES:
        return Cdb(0, _ranged(Opcode.SYNCHRONIZE_CACHE_16, 0, 0))
    for opcodes, likeness in LIKE_ATA.items():
        if taskfile.command in opcodes and described.lba is not None:
            return Cdb(0, _ranged(likeness, described.lba, described.count), *_blocks(described))
    try:
        return Cdb(0, encode(lookup(taskfile), taskfile))
    except Aborted:  # it is in no table of what may be passed through
        _, features, count, low, mid, high, _, _ = taskfile.registers
        return Cdb(
            0,
            AtaPassThrough16(
                protocol=ProtocolByte.of(EXTEND=1),
                features_high=features >> 8,
                features=features & 0xFF,
                count_high=count >> 8,
                count=count & 0xFF,
                lba_low_high=low >> 8,
                lba_low=low & 0xFF,
                lba_mid_high=mid >> 8,
                lba_mid=mid & 0xFF,
                lba_high_high=high >> 8,
                lba_high=high & 0xFF,
                device=taskfile.device,
                command=taskfile.command,
            ).pack(),
        )


def _ata_outcome(taskfile: TaskFile, outcome: tuple[int, int]) -> tuple[int, bytes]:
    status, error = outcome
    if not status & FAILED:
        return Status.GOOD, b""
    if taskfile.packet:  # whose sense key is in the Error register (ATA/ATAPI-6 section 8.23.6)
        return Status.CHECK_CONDITION, FixedSense(sense_key=error >> 4).pack()
    unreadable = error & Error.UNC
    sense = DescriptorSense(
        sense_key=SenseKey.MEDIUM_ERROR if unreadable else SenseKey.ABORTED_COMMAND,
        additional_sense_code=0x11 if unreadable else 0,
        additional_sense_length=AtaReturn.size,
    )
    registers = AtaReturn(error=error & 0xFF, status=status & 0xFF)
    return Status.CHECK_CONDITION, sense.pack() + registers.pack()


# -- virtio-blk ----------------------------------------------------------------------------------

RANGES: Final = {
    BlockType.IN: Opcode.READ_16,
    BlockType.OUT: Opcode.WRITE_16,
    BlockType.FLUSH: Opcode.SYNCHRONIZE_CACHE_16,
}


def _virtio(queue: int, request: virtio.Request) -> Cdb:
    kind, sector, length = request
    blocks, inward = _blocks(virtio.describe(queue, request))
    if kind in RANGES:
        first = sector if blocks else 0
        return Cdb(0, _ranged(RANGES[BlockType(kind)], first, blocks), blocks, inward)
    if kind == BlockType.WRITE_ZEROES:  # which blocks is in its data
        return Cdb(0, Read16(Opcode.WRITE_SAME_16, WriteSameFlags.of(NDOB=1)).pack())
    if kind == BlockType.DISCARD:
        return Cdb(0, Unmap(parameter_list_length=min(length, 0xFFFF)).pack())
    if kind == BlockType.GET_ID:
        flags = cdbs.InquiryFlags.of(EVPD=1)
        return Cdb(0, cdbs.Inquiry(flags=flags, page_code=DESIGNATOR, allocation_length=20).pack())
    return Cdb(0, bytes((VENDOR, kind & 0xFF, 0, 0, 0, 0)))


VIRTIO_SENSES: Final[dict[int, Sense]] = {
    BlockStatus.UNSUPP: senses.INVALID_COMMAND_OPERATION_CODE,
}


def _virtio_outcome(_request: virtio.Request, status: int) -> tuple[int, bytes]:
    if status == BlockStatus.OK:
        return Status.GOOD, b""
    sense = VIRTIO_SENSES.get(status, senses.INTERNAL_TARGET_FAILURE)
    return Status.CHECK_CONDITION, sense.fixed()


_COMMANDS: Final[dict[str, Callable[[int, Any], Cdb]]] = {
    "scsi": _scsi,
    "ata": _ata,
    "virtio": _virtio,
}
_OUTCOMES: Final[dict[str, Callable[[Any, Any], tuple[int, bytes]]]] = {
    "scsi": _scsi_outcome,
    "ata": _ata_outcome,
    "virtio": _virtio_outcome,
}
