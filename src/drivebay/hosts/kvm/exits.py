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
        self.total = 0
        """All of them."""
        self._places: dict[Where, list[int]] = {}
        """How many, and their nanoseconds."""

    def add(self, where: Where, nanoseconds: int) -> None:
        """One more."""
        place = self._places.get(where) or self._new(where)
        place[0] += 1
        place[1] += nanoseconds
        self.total += 1

    def _new(self, where: Where) -> list[int]:
        if len(self._places) >= MOST_PLACES:
            where = (where[0], ELSEWHERE)
        return self._places.setdefault(where, [0, 0])

    def table(self) -> list[ExitCount]:
        """By place, the most frequent first."""
        places = list(self._places.items())
        found = [ExitCount(*where, count, time / 1e9) for where, (count, time) in places]
        return sorted(found, key=lambda each: -each.exits)

    def clear(self) -> None:
        """Count from here."""
        self.total = 0
        self._places.clear()
