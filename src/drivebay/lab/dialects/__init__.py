"""How each sort of controller names its commands and statuses: one module a dialect.

A dialect reads what a core shows to taps and observers (see `drivebay.platform.observer`): a
command by ``describe(queue, command)``, and how one ended by ``outcome(outcome)``. Nothing of it
needs fault rules; traces and views of what is in flight read commands by it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from drivebay.lab.rules import Subject, Vocabulary

__all__ = ["Dialect", "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended: the spec's name of its status, and whether it did what it should."""

    status: str
    ok: bool

    def __str__(self) -> str:
        return self.status


class Dialect(Protocol):
    """What each module here has."""

    VOCABULARY: Vocabulary
    """What rules may name."""

    def describe(self, queue: int, command: Any, controller: str = ...) -> Subject:
        """What a command is. `queue` is what the core showed with it."""

    def outcome(self, outcome: Any) -> Ended:
        """How one ended."""
