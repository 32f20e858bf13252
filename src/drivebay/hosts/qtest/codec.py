"""The qtest wire without a socket: bytes in, lines out, and the words of a line.

https://www.qemu.org/docs/master/devel/testing/qtest.html
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_DATA", "MAX_LINE", "Lines", "Refused", "number"]

MAX_DATA: Final = 16 << 20
"""Most bytes that one line may read or write."""
MAX_LINE: Final = 2 * MAX_DATA + 128
"""Longest line in bytes: a ``write`` has two digits a byte."""
LONGEST_NUMBER: Final = 24


class Refused(Exception):
    """A line that makes no sense; the message goes into the reply."""


class Lines:
    """Cuts what comes in into lines."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit = limit
        self._parts: list[bytes] = []  # of a line whose end has not come
        self._length = 0

    def receive(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` ends, without their ends. None stands for one that is too long."""
        head, newline, rest = data.partition(b"\n")
        if not newline:
            self._keep(data)
            return []
        lines: list[bytes | None] = [head]
        if self._length:
            self._keep(head)
            lines[0] = None if self._length > self._limit else b"".join(self._parts)
            self._parts, self._length = [], 0
        if rest:
            *whole, part = rest.split(b"\n")
            lines += whole
            self._keep(part)
        return lines

    def _keep(self, part: bytes) -> None:
        self._length += len(part)
        if self._length > self._limit:
            self._parts = []  # of no use any more, and perhaps without an end
        elif part:
            self._parts.append(part)


def number(word: bytes, limit: int = 1 << 64) -> int:
    """A number as C writes it, below `limit`: ``0x1f7``, ``503``, ``0767``. Raises `Refused`."""
    try:
        value = int(word, 0)
    except ValueError:
        value = _octal(word)
    if len(word) > LONGEST_NUMBER or not 0 <= value < limit:
        raise Refused(f"number {shown(word)} out of range")
    return value


def _octal(word: bytes) -> int:
    try:
        return int(word[:LONGEST_NUMBER], 8)
    except ValueError:
        raise Refused(f"{shown(word)} is no number") from None


def shown(word: bytes) -> str:
    """A word of the peer's in a reply: not all of it, and nothing but letters."""
    text = word[:40].decode("latin-1").encode("ascii", "backslashreplace").decode()
    return "'" + "".join(c if c.isprintable() else "?" for c in text) + "'"
