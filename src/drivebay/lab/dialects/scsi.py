"""SCSI: a CDB, the unit's number in the place of a queue; the target's `Outcome`.

A status is the name of the sense that comes with it, as SPC-4 has it, or its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.lab.dialects import Ended
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
from drivebay.scsi import sense as senses
from drivebay.scsi.opcodes import Opcode, cdb_length
from drivebay.scsi.sense import Sense, SenseKey
from drivebay.scsi.status import Status
from drivebay.scsi.target import Outcome

__all__ = ["SENSES", "VOCABULARY", "describe", "outcome", "sense_of"]

SENSES: Final[dict[str, Sense]] = {
    name: value
    for name, value in vars(senses).items()
    if isinstance(value, Sense) and value.key is not SenseKey.NO_SENSE
}
"""By their names."""
NAMES: Final = {(sense.key, sense.asc, sense.ascq): name for name, sense in SENSES.items()}

READS: Final = frozenset({Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16})
WRITES: Final = frozenset(
    {
        *(Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16),
        *(Opcode.WRITE_AND_VERIFY_10, Opcode.WRITE_AND_VERIFY_12, Opcode.WRITE_AND_VERIFY_16),
    }
)
FLUSHES: Final = frozenset({Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16})
RANGED: Final = frozenset(
    {
        *READS,
        *WRITES,
        *FLUSHES,
        *(Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16),
        *(Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16),
        *(Opcode.PRE_FETCH_10, Opcode.PRE_FETCH_16),
    }
)
"""Those whose address and length are where READ of the same size has them (SBC-3)."""
OUTWARDS: Final = frozenset(
    {
        *WRITES,
        *(Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16, Opcode.COMPARE_AND_WRITE, Opcode.UNMAP),
        *(Opcode.MODE_SELECT_6, Opcode.MODE_SELECT_10, Opcode.PERSISTENT_RESERVE_OUT),
        *(Opcode.WRITE_BUFFER, Opcode.SEND_DIAGNOSTIC),
    }
)
INWARDS: Final = frozenset(
    {
        *READS,
        *(Opcode.REQUEST_SENSE, Opcode.INQUIRY, Opcode.MODE_SENSE_6, Opcode.MODE_SENSE_10),
        *(Opcode.READ_CAPACITY_10, Opcode.SERVICE_ACTION_IN_16, Opcode.REPORT_LUNS),
        *(Opcode.LOG_SENSE, Opcode.READ_BUFFER, Opcode.PERSISTENT_RESERVE_IN),
        *(Opcode.MAINTENANCE_IN, Opcode.READ_TOC_PMA_ATIP, Opcode.GET_CONFIGURATION),
        *(Opcode.GET_EVENT_STATUS_NOTIFICATION, Opcode.READ_DISC_INFORMATION),
        *(Opcode.READ_TRACK_INFORMATION, Opcode.READ_CD, Opcode.READ_CD_MSF),
        *(Opcode.MECHANISM_STATUS, Opcode.READ_DISC_STRUCTURE, Opcode.GET_PERFORMANCE),
    }
)
SERVICE_ACTIONS: Final = {(Opcode.SERVICE_ACTION_IN_16, 0x10): "READ_CAPACITY_16"}
BYTES: Final = 16
VOCABULARY: Final = Vocabulary(
    controller="scsi",
    groups=frozenset({IO, READ, WRITE, FLUSH}),
    unnamed=frozenset({OPCODE}),
    commands=frozenset({*Opcode.__members__, *SERVICE_ACTIONS.values()}),
    statuses=frozenset({*SENSES, *Status.__members__}) - {"GOOD", "CHECK_CONDITION"},
    fields=frozenset(f"cdb{n}" for n in range(BYTES)),
    changes=frozenset(f"cdb{n}" for n in range(BYTES)),
    place="lun",
    actions=ACTIONS,
)


def describe(queue: int, command: bytes, controller: str = "scsi") -> Subject:
    """A command by its CDB."""
    number = command[0] if command else 0
    if number not in Opcode._value2member_map_:
        name = f"{OPCODE}-{number:#04x}"
        return Subject(controller, name, queue=queue, place="lun", value=value_of(command))
    opcode = Opcode(number)
    name, groups = opcode.name, set[str]()
    if opcode == Opcode.UNMAP:  # READ SUB-CHANNEL, to a DVD drive
        name = "UNMAP"
        groups.add(opcode.name)
    elif len(command) > 1 and (opcode, command[1] & 0x1F) in SERVICE_ACTIONS:
        name = SERVICE_ACTIONS[opcode, command[1] & 0x1F]
        groups.add(opcode.name)
    lba, count = span_of(command) if opcode in RANGED else (None, 0)
    for group, members in ((READ, READS), (WRITE, WRITES), (FLUSH, FLUSHES)):
        if opcode in members:
            groups.add(group)
    if opcode in RANGED or opcode in (Opcode.UNMAP, Opcode.COMPARE_AND_WRITE):
        groups.add(IO)
    direction = None
    if opcode in INWARDS or opcode in OUTWARDS:
        direction = Direction.READ if opcode in INWARDS else Direction.WRITE
    return Subject(
        controller,
        name,
        frozenset(groups),
        queue,
        lba=lba,
        count=count,
        direction=direction,
        value=value_of(command),
        place="lun",
    )


def value_of(cdb: bytes) -> Callable[[str], int]:
    """Gives the bytes of a CDB."""

    def value(name: str) -> int:
        index = int(name.removeprefix("cdb"))
        return cdb[index] if index < len(cdb) else 0

    return value


def span_of(cdb: bytes) -> tuple[int | None, int]:
    """First block and how many, of a command that has them where READ has (SBC-3 section 5)."""
    length = cdb_length(cdb[0])
    if length is None or len(cdb) < length:
        return None, 0
    if length == 6:  # of which 0 blocks are 256
        return int.from_bytes(cdb[1:4]) & 0x1FFFFF, cdb[4] or 256
    if length == 10:
        return int.from_bytes(cdb[2:6]), int.from_bytes(cdb[7:9])
    if length == 12:
        return int.from_bytes(cdb[2:6]), int.from_bytes(cdb[6:10])
    return int.from_bytes(cdb[2:10]), int.from_bytes(cdb[10:14])


def sense_of(data: bytes) -> tuple[int, int, int] | None:
    """Key, code and qualifier in sense data of either format; None if it has none."""
    if len(data) >= 14 and data[0] & 0x7E == 0x70:
        fixed = senses.FixedSense.unpack(data.ljust(senses.FixedSense.size, b"\0")[:18])
        return (
            fixed.sense_key & 0xF,
            fixed.additional_sense_code,
            fixed.additional_sense_code_qualifier,
        )
    if len(data) >= senses.DescriptorSense.size and data[0] & 0x7E == 0x72:
        found = senses.DescriptorSense.unpack(data[: senses.DescriptorSense.size])
        return (
            found.sense_key & 0xF,
            found.additional_sense_code,
            found.additional_sense_code_qualifier,
        )
    return None


def outcome(outcome: Outcome) -> Ended:
    """How the target says that a command ended."""
    if outcome.overrun:
        return Ended("OVERRUN", False)
    found = sense_of(outcome.sense) if outcome.status == Status.CHECK_CONDITION else None
    if found is not None:
        key, asc, ascq = found
        known = key in SenseKey._value2member_map_
        name = NAMES.get((SenseKey(key), asc, ascq)) if known else None
        words = SenseKey(key).name if known else f"key {key:x}"
        return Ended(name or f"{words} {asc:02x}/{ascq:02x}", False)
    return Ended(outcome.status.name, outcome.status == Status.GOOD)
