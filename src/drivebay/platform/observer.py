"""Who looks on while a controller works: taps, which only see, and observers, which may meddle.

A controller shows each command twice: as its guest gave it, and how it ended, as the guest is told.
What a command and an outcome are is the controller's own; `docs/architecture.md` has the table, and
`drivebay.lab` the dialects that read them. Where nobody looks on, nothing is made for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

__all__ = ["Dropped", "InFlight", "Observed", "Observer", "Tap"]

C = TypeVar("C")
R = TypeVar("R")


class Dropped(Exception):
    """Raised by an observer: nobody is ever told how the command ended."""


class Tap(Protocol):
    """Sees commands go by. Its calls come on the engine's thread, must be quick and raise nothing.

    `queue` and `tag` tell a command from all others under way: a tag is used again when the command
    has ended. One that was given up by a reset never ends; one with the same queue and tag may
    follow.
    """

    def began(self, queue: int, tag: int, command: Any) -> None:
        """A command was taken from the guest."""

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        """The guest is told how it ended."""


class Observer(Protocol[C, R]):
    """Both are coroutines, and may wait. They may raise what the controller's own commands raise to
    end one with a status, or `Dropped`.
    """

    async def command(self, queue: int, command: C) -> C:
        """A command, before it acts. What is returned acts in its place."""

    async def completion(self, queue: int, command: C, outcome: R) -> R:
        """How it ended, after it has acted. What is returned is told the guest."""


@dataclass(frozen=True)
class InFlight:
    """A command that has to wait for something; `since` is by the engine's clock, in seconds."""

    queue: int
    tag: int
    command: Any
    since: float


class Observed(Protocol):
    """A controller, or a part of one, that can be looked at."""

    tap: Tap | None

    def in_flight(self) -> Iterable[InFlight]:
        """The commands that are under way now."""
