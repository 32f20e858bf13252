"""What the benchmark is doing, on standard error: one line that changes on a terminal."""

from __future__ import annotations

import sys


class Progress:
    """Says each step once, and on a terminal also how far it is."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """A step begins, or has a result."""
        self._write(("\r\033[K" if self._terminal else "") + f"bench: {text}\n")

    def tick(self, text: str) -> None:
        """It goes on."""
        if self._terminal:
            self._write(f"\r\033[Kbench: {text}")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
