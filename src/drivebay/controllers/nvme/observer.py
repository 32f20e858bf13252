"""Who may look at commands before they act, and at completions before they are posted."""

from __future__ import annotations

from typing import Protocol

from drivebay.controllers.nvme.structures import Command, Completion

__all__ = ["Dropped", "Observer"]


class Dropped(Exception):
    """Raised by an observer: nobody is ever told how the command ended."""


class Observer(Protocol):
    """All are coroutines, and may wait; those of commands may raise `Refused`, or `Dropped`.

    `sqid` is 0 for the admin queue. Asynchronous events are not shown: they end when something
    happens, not when they are served.
    """

    async def enable(self) -> None:
        """The controller was enabled, and is ready when this ends; never if it raises `Dropped`."""

    async def command(self, sqid: int, command: Command) -> Command:
        """A command, before it acts. What is returned acts in its place."""

    async def completion(self, sqid: int, command: Command, completion: Completion) -> Completion:
        """How it ended, after it has acted. What is returned is posted; queue, head and phase are
        filled in later.
        """
