"""How a command ends (SAM-5 section 5.3), and the ends that carry no sense."""

from __future__ import annotations

import enum

__all__ = ["Aborted", "Busy", "Conflict", "Status"]


class Status(enum.IntEnum):
    """SCSI status codes, SAM-5."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    TASK_ABORTED = 0x40


class Conflict(Exception):
    """The command ends with RESERVATION CONFLICT: another initiator has reserved the unit."""


class Aborted(Exception):
    """The command ends with TASK ABORTED: another initiator has preempted this one."""


class Busy(Exception):
    """The command ends with BUSY or TASK SET FULL: its initiator is to try again."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status
