"""Interrupts as a device sees them: a line it holds up, or a message it sends."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Line", "Message"]

Message = Callable[[], None]
"""Sends one interrupt: an MSI, an eventfd, an edge."""


class Line:
    """A level-triggered line. `sink` is called with each change of level, and only then."""

    def __init__(self, sink: Callable[[bool], None]) -> None:
        self._sink = sink
        self.level = False

    def set(self, level: bool) -> None:
        """Raise or lower the line."""
        if level != self.level:
            self.level = level
            self._sink(level)
