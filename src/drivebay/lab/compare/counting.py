"""Accesses counted, and interrupts."""

from __future__ import annotations

__all__ = ["Meter"]


class Meter:
    """How many accesses there were, of how many bytes together; and interrupts. An `Onlooker`."""

    def __init__(self) -> None:
        self.accesses = self.bytes = self.interrupts = 0

    def access(self, place: str, write: bool, offset: int, width: int, value: int) -> None:
        """One of `width` bytes."""
        self.accesses += 1
        self.bytes += width

    def interrupt(self, name: str, level: bool | None) -> None:
        """A line goes up or down, or a message is sent."""
        self.interrupts += level is not False

    def clear(self) -> None:
        """Begin anew."""
        self.accesses = self.bytes = self.interrupts = 0
