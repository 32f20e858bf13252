"""A board: what a machine's controllers sit on, and what whoever runs its CPU works it through.

`machines/` puts controllers on a board; hosts read and write its ports and memory and take its
interrupts. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable

from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.ports import PortSpace

__all__ = ["Board", "Interrupt"]

Interrupt = Callable[[int, bool], None]
"""Told the number of an interrupt line and its new level."""


def _nobody(_number: int, _level: bool) -> None:
    """Where interrupts go while no host has taken the board."""


class Board:
    """RAM, ports, MMIO and interrupt lines around one engine."""

    def __init__(self, engine: Engine, memory: GuestMemory) -> None:
        self.engine = engine
        self.memory = memory
        self.ports = PortSpace()
        self.mmio = MmioSpace()
        self.interrupt: Interrupt = _nobody
        """The host's; called on the engine's thread, in the access that caused it."""
        self._lines: dict[int, Line] = {}
        self._resets: list[Callable[[], None]] = []

    def line(self, number: int) -> Line:
        """Interrupt line `number`, the same one to all who ask."""
        if number not in self._lines:
            self._lines[number] = Line(lambda level: self.interrupt(number, level))
        return self._lines[number]

    def on_reset(self, reset: Callable[[], None]) -> None:
        """Call `reset` when the machine is reset."""
        self._resets.append(reset)

    def reset(self) -> None:
        """System reset: every device's, in the order they were put here."""
        for reset in self._resets:
            reset()
