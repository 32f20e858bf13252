"""NVMe: the row of a submission queue entry; DW0 and the status field of its completion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from drivebay.controllers.nvme.opcodes import (
    AdminOpcode,
    ErrorEvent,
    EventType,
    LogId,
    NoticeEvent,
    NvmOpcode,
    SmartEvent,
)
from drivebay.controllers.nvme.status import Status, status_name
from drivebay.controllers.nvme.structures import Command
from drivebay.lab.dialects import Ended
from drivebay.lab.rules import ACTIONS, ENABLE, IO, Direction, Subject, Vocabulary

__all__ = ["EVENTS", "VOCABULARY", "WIDTHS", "describe", "describe_command", "outcome"]

RANGED: Final = frozenset(
    {
        NvmOpcode.READ,
        NvmOpcode.WRITE,
        NvmOpcode.COMPARE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.VERIFY,
    }
)
"""I/O commands that name one range of blocks."""
DIRECTIONS: Final = {1: Direction.WRITE, 2: Direction.READ}
"""Bits 1:0 of an opcode (Base 2.0 figure 86)."""
CODE: Final = 0x7FF
"""Status code type and status code, of a status field without its phase tag."""
WIDTHS: Final = {
    **dict.fromkeys(("opcode", "flags"), 8),
    **dict.fromkeys(("nlb",), 16),
    **dict.fromkeys(("nsid", "cdw2", "cdw3", *(f"cdw{n}" for n in range(10, 16))), 32),
    **dict.fromkeys(("mptr", "prp1", "prp2", "slba"), 64),
}
"""Fields of a command, and their bits."""
ADMIN: Final = "ADMIN"
EVENTS: Final = {
    **{event.name: (EventType.ERROR, event, LogId.ERRORS) for event in ErrorEvent},
    **{event.name: (EventType.SMART, event, LogId.SMART) for event in SmartEvent},
    NoticeEvent.NAMESPACE_ATTRIBUTES.name: (
        EventType.NOTICE,
        NoticeEvent.NAMESPACE_ATTRIBUTES,
        LogId.CHANGED_NAMESPACES,
    ),
    NoticeEvent.FIRMWARE_ACTIVATION.name: (
        EventType.NOTICE,
        NoticeEvent.FIRMWARE_ACTIVATION,
        LogId.FIRMWARE_SLOTS,
    ),
}
"""Asynchronous events by name: type, information, the log page that says more."""
VOCABULARY: Final = Vocabulary(
    controller="nvme",
    groups=frozenset({ADMIN, IO}),
    unnamed=frozenset({ADMIN, IO}),
    commands=frozenset({*AdminOpcode.__members__, *NvmOpcode.__members__, ENABLE}),
    statuses=frozenset(Status.__members__) - {"SUCCESS"},
    fields=frozenset(WIDTHS),
    changes=frozenset(WIDTHS),
    results=frozenset({"dw0"}),
    actions=ACTIONS | {"event"},
    retries=True,
    events=frozenset(EVENTS),
)


def describe(queue: int, command: Sequence[int], controller: str = "nvme") -> Subject:
    """A command by its row. Queue 0 is the admin queue."""
    return describe_command(queue, Command(*command), controller)


def describe_command(queue: int, command: Command, controller: str = "nvme") -> Subject:
    """The same of one that is taken apart."""
    opcode = command.opcode
    group, names = (IO, NvmOpcode) if queue else (ADMIN, AdminOpcode)
    known = opcode in names._value2member_map_
    ranged = queue and opcode in RANGED
    return Subject(
        controller,
        names(opcode).name if known else f"{group}-{opcode:#04x}",
        frozenset((group,)),
        queue,
        nsid=command.nsid,
        lba=command.slba if ranged else None,
        count=command.nlb if ranged else 0,
        direction=DIRECTIONS.get(opcode & 3),
        value=partial(getattr, command),
    )


def outcome(outcome: tuple[int, int]) -> Ended:
    """DW0 and the status field."""
    code = outcome[1] & CODE
    return Ended(status_name(code), not code)
