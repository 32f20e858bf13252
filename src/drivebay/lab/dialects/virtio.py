"""virtio-blk: type, sector and length of a request; the status byte (virtio 1.2 section 5.2.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.controllers.virtio.registers import SECTOR_SIZE, BlockStatus, BlockType
from drivebay.lab.dialects import Ended
from drivebay.lab.rules import ACTIONS, IO, OPCODE, READ, WRITE, Direction, Subject, Vocabulary

__all__ = ["VOCABULARY", "Request", "describe", "outcome"]

Request = tuple[int, int, int]
"""Type; sector, of 512 bytes; bytes of data."""

FIELDS: Final = ("type", "sector", "length")
VOCABULARY: Final = Vocabulary(
    controller="virtio-blk",
    groups=frozenset({IO, READ, WRITE}),
    unnamed=frozenset({OPCODE}),
    commands=frozenset(BlockType.__members__),
    statuses=frozenset(BlockStatus.__members__) - {"OK"},
    fields=frozenset(FIELDS),
    changes=frozenset({"type", "sector"}),
    actions=ACTIONS,
)
GROUPS: Final = {BlockType.IN: frozenset({IO, READ}), BlockType.OUT: frozenset({IO, WRITE})}
DIRECTIONS: Final = {
    BlockType.IN: Direction.READ,
    BlockType.GET_ID: Direction.READ,
    BlockType.GET_LIFETIME: Direction.READ,
    BlockType.OUT: Direction.WRITE,
    BlockType.DISCARD: Direction.WRITE,
    BlockType.WRITE_ZEROES: Direction.WRITE,
    BlockType.SECURE_ERASE: Direction.WRITE,
}
IDENTIFYING: Final = (BlockType.GET_ID, BlockType.GET_LIFETIME)


def describe(queue: int, command: Request, controller: str = "virtio-blk") -> Subject:
    """A request. One that is cut or lies in no memory has a type below 0."""
    number, sector, length = command
    if number not in BlockType._value2member_map_:
        name = f"{OPCODE}-{number:#04x}" if number >= 0 else "MALFORMED"
        return Subject(controller, name, queue=queue, value=value_of(command))
    kind = BlockType(number)
    ranged = kind in GROUPS
    groups = GROUPS.get(kind, frozenset() if kind in IDENTIFYING else frozenset({IO}))
    return Subject(
        controller,
        kind.name,
        groups,
        queue,
        lba=sector if ranged else None,
        count=-(-length // SECTOR_SIZE) if ranged else 0,
        direction=DIRECTIONS.get(kind),
        value=value_of(command),
    )


def value_of(command: Request) -> Callable[[str], int]:
    """Gives the fields of a request."""
    return dict(zip(FIELDS, command, strict=True)).__getitem__


def outcome(outcome: int) -> Ended:
    """The status byte."""
    known = outcome in BlockStatus._value2member_map_
    return Ended(BlockStatus(outcome).name if known else f"status {outcome:#x}", not outcome)
