"""Why a guest's CPUs came out to us, how often, and for how long."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["ELSEWHERE", "ExitCount", "Exits", "Where"]

Where = tuple[str, int]

MOST_PLACES: Final = 4096
ELSEWHERE: Final = -1
"""Where exits are counted of a guest that has been at all too many places."""


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
        counts = self.counts
        if where not in counts:
            if len(counts) >= MOST_PLACES:
                where = (where[0], ELSEWHERE)
            counts.setdefault(where, 0)
            self.nanoseconds.setdefault(where, 0)
        counts[where] += 1
        self.nanoseconds[where] += nanoseconds

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
