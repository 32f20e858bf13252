"""This terminal as the other end of a machine's serial port."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivebay.platform.engine import Engine

__all__ = ["console"]

MOST: Final = 4096
PREFIX, LEAVE = b"\x01", (b"x", b"X")
"""Ctrl-A X leaves; Ctrl-A twice is one for the guest."""


class _Keyboard:
    """What is typed goes to `typed`, but for what is for us."""

    def __init__(self, fd: int, engine: Engine, typed: Callable[[bytes], None]) -> None:
        self._fd, self._engine, self._typed = fd, engine, typed
        self._prefixed = False
        self.left = False

    def readable(self) -> None:
        data = os.read(self._fd, MOST)
        if not data:  # the terminal is gone
            self._engine.unwatch(self._fd)
            self.left = True
        self._typed(b"".join(filter(None, map(self._key, data))))

    def _key(self, code: int) -> bytes:
        """What the guest gets for a key."""
        key = bytes((code,))
        if not self._prefixed:
            self._prefixed = key == PREFIX
            return b"" if self._prefixed else key
        self._prefixed = False
        self.left = self.left or key in LEAVE
        return b"" if key in LEAVE else key


@contextmanager
def console(engine: Engine, typed: Callable[[bytes], None]) -> Iterator[Callable[[], bool]]:
    """Give `typed` what is typed here, key by key; the value tells whether somebody has left.

    Nothing happens where standard input is no terminal.
    """
    if not sys.stdin.isatty():
        yield lambda: False
        return
    fd = sys.stdin.fileno()
    keyboard = _Keyboard(fd, engine, typed)
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed before is not lost
    engine.watch(fd, keyboard.readable)
    try:
        yield lambda: keyboard.left
    finally:
        engine.unwatch(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
