"""Sectors that a host has declared bad, which a controller keeps and a disk does not know."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

__all__ = ["BadSectors", "TooManyRanges"]

MAX_RANGES: Final = 1024
"""Ranges that are remembered."""


class TooManyRanges(Exception):
    """There is no room for more."""


class BadSectors:
    """Ranges of sectors that cannot be read until they are written."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []  # first sector and end, in order, apart

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def first(self, lba: int, count: int) -> int | None:
        """The first bad one of `count` sectors, or None."""
        index = bisect_right(self._ranges, lba, key=lambda each: each[1])
        if index < len(self._ranges):
            start, _ = self._ranges[index]
            if start < lba + count:
                return max(start, lba)
        return None

    def add(self, lba: int, count: int) -> None:
        """These are bad. Raises `TooManyRanges`."""
        start, end = lba, lba + count
        apart = []
        for first, last in self._ranges:
            if last < start or end < first:
                apart.append((first, last))
            else:
                start, end = min(start, first), max(end, last)
        if len(apart) >= MAX_RANGES:
            raise TooManyRanges(f"{MAX_RANGES} ranges of bad sectors")
        self._ranges = sorted([*apart, (start, end)])

    def clear(self, lba: int, count: int) -> None:
        """These were written, and are good; if that makes too many ranges, so is what follows."""
        if self._ranges:
            end = lba + count
            pieces = []
            for first, last in self._ranges:
                pieces += [(first, min(last, lba)), (max(first, end), last)]
            self._ranges = [piece for piece in pieces if piece[0] < piece[1]]
            if len(self._ranges) > MAX_RANGES:
                self._ranges = [piece for piece in self._ranges if piece[0] != end]

    def save(self) -> list[list[int]]:
        """The ranges."""
        return [list(each) for each in self._ranges]

    def restore(self, state: list[list[int]]) -> None:
        """Take what `save` gave."""
        self._ranges = [(first, end) for first, end in state]
