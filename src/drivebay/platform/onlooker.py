"""Who looks on at what crosses the seam between a guest and its controllers, as `Tap` does at
commands: register accesses and interrupts. A seam where nobody does is as it would be without.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from drivebay.platform.ports import Hold

__all__ = ["Onlooker", "ReadRegister", "WriteRegister", "watched_read", "watched_write"]


class Onlooker(Protocol):
    """Its calls come on the engine's thread, must be quick and raise nothing."""

    def access(self, place: str, write: bool, offset: int, width: int, value: int) -> None:
        """The guest has read or written `width` bytes of the registers at `place`, as ``BAR0``."""

    def interrupt(self, name: str, level: bool | None) -> None:
        """The guest is interrupted: a line goes up or down, or a message is sent (None)."""


ReadRegister = Callable[[int, int], int]
"""Told offset and width."""


class WriteRegister(Protocol):
    """Told offset, width and value."""

    def __call__(self, offset: int, width: int, value: int, /) -> Hold | None:
        """A `Hold` says that the access is not complete."""


def watched_read(read: ReadRegister, place: str, onlooker: Onlooker) -> ReadRegister:
    """The same, and `onlooker` is told of what it gave."""
    return partial(_read, read, place, onlooker)


def watched_write(write: WriteRegister, place: str, onlooker: Onlooker) -> WriteRegister:
    """The same, and `onlooker` is told before it acts: what it causes comes behind it."""
    return partial(_write, write, place, onlooker)


def _read(read: ReadRegister, place: str, onlooker: Onlooker, offset: int, width: int, /) -> int:
    value = read(offset, width)
    onlooker.access(place, False, offset, width, value)
    return value


def _write(
    write: WriteRegister, place: str, onlooker: Onlooker, offset: int, width: int, value: int, /
) -> Hold | None:
    onlooker.access(place, True, offset, width, value)
    return write(offset, width, value)
