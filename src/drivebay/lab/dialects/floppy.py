"""The 82077AA: a command's bytes; those of its result.

Where a command goes is cylinder, head and sector, which are fields: what LBA that is depends on the
medium.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.controllers.floppy.commands import COMMANDS
from drivebay.controllers.floppy.registers import InterruptCode, Opcode, Status0, Status1, Status2
from drivebay.controllers.floppy.transfer import Select
from drivebay.lab.dialects import Ended
from drivebay.lab.rules import IO, OPCODE, READ, WRITE, Direction, Subject, Vocabulary

__all__ = ["STATUSES", "VOCABULARY", "describe", "outcome"]

READS: Final = frozenset({Opcode.READ_DATA, Opcode.READ_DELETED_DATA, Opcode.READ_TRACK})
WRITES: Final = frozenset({Opcode.WRITE_DATA, Opcode.WRITE_DELETED_DATA})
SCANS: Final = frozenset({Opcode.SCAN_EQUAL, Opcode.SCAN_LOW_OR_EQUAL, Opcode.SCAN_HIGH_OR_EQUAL})
MEDIUM: Final = frozenset({*READS, *WRITES, *SCANS, Opcode.FORMAT_TRACK, Opcode.VERIFY})
OUTWARDS: Final = frozenset({*WRITES, *SCANS, Opcode.FORMAT_TRACK})
UNIT_LESS: Final = frozenset(
    {
        *(Opcode.SPECIFY, Opcode.SENSE_INTERRUPT_STATUS, Opcode.DUMPREG, Opcode.VERSION),
        *(Opcode.CONFIGURE, Opcode.PERPENDICULAR_MODE, Opcode.LOCK, Opcode.PART_ID),
    }
)
"""Commands that select no drive."""
TRANSFER_RESULT: Final = 7
"""Bytes of the result of a command on the medium (section 5.1): ST0, ST1, ST2, C, H, R and N."""
INVALID: Final = bytes((Status0.of(IC=InterruptCode.INVALID),))
STATUSES: Final = {
    **{name: (1, int(getattr(Status1, name))) for name in ("EN", "DE", "OR", "ND", "NW", "MA")},
    **{name: (2, int(getattr(Status2, name))) for name in ("CM", "DD", "WC", "BC", "MD")},
}
"""By the bits' names: which status byte, and the bit."""
PLACES: Final = {"cylinder": 2, "head": 3, "sector": 4}
"""Where in a transfer's bytes C, H and R are."""
VOCABULARY: Final = Vocabulary(
    controller="floppy",
    groups=frozenset({IO, READ, WRITE}),
    unnamed=frozenset({OPCODE}),
    commands=frozenset(Opcode.__members__),
    statuses=frozenset(STATUSES),
    fields=frozenset(PLACES),
    place="drive",
    actions=frozenset(
        {"status", "drop", "ignore", "delay", "hold", "lose-interrupt", "die", "remove"}
    ),
    addressed=False,
)


def describe(queue: int, command: bytes, controller: str = "floppy") -> Subject:
    """A command by its bytes; the drive is the one that it selects."""
    known = COMMANDS.get(command[0])
    if known is None:
        return Subject(controller, f"{OPCODE}-{command[0]:#04x}", place="drive")
    opcode = known.opcode
    groups = {
        group
        for group, members in ((READ, READS), (WRITE, WRITES), (IO, MEDIUM))
        if opcode in members
    }
    direction = Direction.WRITE if opcode in OUTWARDS else None
    selects = opcode not in UNIT_LESS and len(command) > 1
    return Subject(
        controller,
        opcode.name,
        frozenset(groups),
        Select(command[1]).DS if selects else 0,
        direction=Direction.READ if opcode in READS else direction,
        value=value_of(command),
        place="drive",
    )


def value_of(command: bytes) -> Callable[[str], int]:
    """Gives C, H and R; 0 of commands that have none."""

    def value(name: str) -> int:
        return command[PLACES[name]] if len(command) > PLACES[name] else 0

    return value


def outcome(outcome: bytes) -> Ended:
    """The result: that of a command on the medium says what went wrong by two bytes."""
    if outcome == INVALID:
        return Ended("INVALID", False)
    if len(outcome) != TRANSFER_RESULT:
        return Ended("OK", True)
    found = [name for name, (byte, bit) in STATUSES.items() if outcome[byte] & bit]
    ok = Status0(outcome[0]).IC is InterruptCode.NORMAL
    return Ended("OK" if ok else "+".join(found) or "ABNORMAL", ok)
