"""Command completion coalescing: one interrupt for many commands (AHCI 1.3.1 section 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivebay.controllers.ahci.registers import CccCtl
from drivebay.platform.engine import Engine, Timer

__all__ = ["Coalescing"]


class Coalescing:
    """Counts completions of the chosen ports; `interrupt` is called when there were CC of them, or
    TV milliseconds after the first. `number` is the bit of IS that stands for it.

    The time counts while there is a completion to tell of: commands that hang interrupt nobody.
    """

    def __init__(self, engine: Engine, number: int, interrupt: Callable[[], None]) -> None:
        self._engine, self._interrupt = engine, interrupt
        self.number = number
        self._timer: Timer | None = None
        self.control = self.ports = self._count = 0
        self.reset()

    def reset(self) -> None:
        """Off."""
        self.control = CccCtl.of(TV=1, CC=1, INT=self.number)
        self.ports = 0
        self._clear()

    def _clear(self) -> None:
        self._count = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def write_control(self, value: int) -> None:
        """TV and CC can be changed while it is off."""
        control = CccCtl(value)
        if self.control & CccCtl.EN:
            self.control = CccCtl(self.control).replace(EN=control.EN)
        else:
            self.control = CccCtl(control & ~CccCtl.INT).replace(INT=self.number)
        if not control.EN:
            self._clear()

    def completed(self, port: int, count: int) -> None:
        """Commands of `port` are done."""
        if not self.control & CccCtl.EN or not self.ports >> port & 1 or not count:
            return
        control = CccCtl(self.control)
        self._count += count
        if control.CC and self._count >= control.CC:
            self._fire()
        elif self._timer is None:
            self._timer = self._engine.after(max(control.TV, 1) / 1000, self._fire)

    def _fire(self) -> None:
        self._clear()
        self._interrupt()

    def save(self) -> dict[str, Any]:
        """Registers and count."""
        return {"control": int(self.control), "ports": self.ports, "count": self._count}

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; the time begins anew."""
        self._clear()
        self.control, self.ports = state["control"], state["ports"]
        self._count = state["count"]
        if self._count:
            self._timer = self._engine.after(CccCtl(self.control).TV / 1000, self._fire)
