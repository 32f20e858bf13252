"""Who looks on while a controller works: taps, which only see, and observers, which may meddle.

A controller shows each command twice: as its guest gave it, and how it ended, as the guest is told.
What a command and an outcome are is the controller's own; `docs/architecture.md` has the table, and
`drivebay.lab` the dialects that read them. Where nobody looks on, nothing is made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from drivebay.disk.contract import Buffers, Operation

__all__ = ["Dropped", "Escort", "InFlight", "Observed", "Observer", "Tap"]

C = TypeVar("C")
R = TypeVar("R")


class Dropped(Exception):
    """Raised by an escort: nobody is ever told how the command ended."""


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


class Escort(Generic[C, R]):
    """Goes with one command until its end is told; this one changes nothing. Its coroutines may
    wait; they may raise what the controller's own commands raise to end one with a status, or
    `Dropped`.
    """

    twice = False
    """Its end is told twice, where that can be."""
    quiet = False
    """Its end is told without an interrupt."""

    def __init__(self, command: C) -> None:
        self.command = command
        """What acts."""

    async def before(self) -> bool:
        """Before it acts; False if it shall not, and end well all the same."""
        return True

    async def move(
        self, offset: int, buffers: Buffers, move: Callable[[Buffers], Operation]
    ) -> None:
        """Have `move` move a part of its data, the one from byte `offset` on. Not called by NVMe,
        whose commands find their data themselves.
        """
        await move(buffers)

    async def after(self, outcome: R) -> R:
        """After it has acted, well or not. What is returned is told the guest."""
        return outcome


class Observer(Protocol[C, R]):
    """May meddle."""

    def command(self, queue: int, tag: int, command: C) -> Escort[C, R] | None:
        """Who goes with a command that was taken from the guest; mostly nobody."""


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
