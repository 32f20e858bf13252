"""Why a guest's CPUs came out to us, how often, and for how long."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ExitCount", "Exits"]

Where = tuple[str, int]


class ExitCount(NamedTuple):
    """Exits of one kind at one place: a port, the start of a page of registers, an MSR."""

    kind: str
    """``in``, ``out``, ``read``, ``write``, ``rdmsr``, ``wrmsr``, ``hypercall`` or ``other``."""
    place: int
    exits: int
    seconds: float
    """From where KVM_RUN returned to where it is called again: what Python takes, and disks that
    are waited for."""

    @property
    def microseconds(self) -> float:
        """Per exit."""
        return self.seconds / self.exits * 1e6


class Exits:
    """Counts since the machine was made, or since `clear`."""

    def __init__(self) -> None:
        self.counts: dict[Where, int] = {}
        self.nanoseconds: dict[Where, int] = {}

    def add(self, where: Where, nanoseconds: int) -> None:
        """One more."""
        self.counts[where] = self.counts.get(where, 0) + 1
        self.nanoseconds[where] = self.nanoseconds.get(where, 0) + nanoseconds

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def table(self) -> list[ExitCount]:
        """By place, the most frequent first."""
        times = dict(self.nanoseconds)
        return sorted(
            (ExitCount(*where, count, times[where] / 1e9) for where, count in self.counts.items()),
            key=lambda each: -each.exits,
        )

    def clear(self) -> None:
        """Count from here."""
        self.counts.clear()
        self.nanoseconds.clear()
