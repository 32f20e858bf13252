"""One SCSI command, as every wire that brings one sees it (SAM-5 section 4.5: a task).

A logical unit parses a CDB completely before it has any effect; what it returns says which way the
data goes and exactly how much there is. Whoever brought the command moves the data in as many
parts as suit its wire (a DRQ block, a PRD table, a ring's descriptors), then lets it finish.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Protocol

from drivebay.disk.contract import Buffers

__all__ = ["Direction", "LogicalUnit", "Task"]


class Direction(enum.Enum):
    """Which way a command's data goes, as the initiator sees it."""

    NONE = "none"
    IN = "in"
    OUT = "out"


class Task:
    """A command that is known good and has had no effect yet.

    Every method may raise `CheckCondition`, which ends the task. A task that is given up (a reset,
    an abort) is just not called again.
    """

    direction = Direction.NONE
    length = 0
    """Bytes of data it moves. Not more than the CDB's allocation or transfer length."""
    unit = 1
    """Every part but the last is a multiple of this: a block, where the medium is accessed."""
    prepares = False
    """Whether `prepare` must come first, as `length` is not known before."""

    async def prepare(self) -> None:
        """Find out what is answered. Only where the unit can be told by one wire are there such
        tasks: no ATAPI device has any.
        """

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Move the bytes from `offset` on into `buffers` (in) or out of them (out).

        Parts come in order, each byte once.
        """
        raise NotImplementedError

    async def finish(self) -> None:
        """Act on the data received, or on the command if it moves none. After the last part."""


class LogicalUnit(Protocol):
    """A device server: it understands commands."""

    def execute(self, cdb: bytes, *, resumed: bool = False) -> Task:
        """Parse `cdb`. Raises `CheckCondition`; a task has no effect before its first call.

        A saved command is parsed again as `resumed`: its initiator has been told what it had to be.
        """

    def reset(self) -> None:
        """Logical unit reset: settings at their defaults, a unit attention for who asks next."""

    def save(self) -> dict[str, Any]:
        """The unit's state as ints, bools, strings, bytes, lists and dicts."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again. Raises `KeyError` or `ValueError` if it is none."""
