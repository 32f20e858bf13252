"""Interrupts: one for each batch of completions, by message or by pin, coalesced if asked for.

NVMe PCIe Transport 1.0 section 3.5; coalescing is Base 2.0 section 5.27.1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from drivebay.controllers.nvme.queues import CompletionQueue
from drivebay.platform.engine import Engine, Timer
from drivebay.platform.interrupts import Line

__all__ = ["Interrupts", "Vectors"]

UNIT = 100e-6
"""Seconds that the aggregation time counts."""


class Vectors(Protocol):
    """Where messages go: MSI-X."""

    @property
    def vectors(self) -> int:
        """How many there are."""

    @property
    def enabled(self) -> bool:
        """Whether the guest wants them, and not the pin."""

    def notify(self, vector: int) -> None:
        """Send one."""


class Interrupts:
    """`messages` if they are enabled, or `pin`; `queues` gives the completion queues there are."""

    def __init__(
        self,
        engine: Engine,
        messages: Vectors,
        pin: Line,
        queues: Callable[[], Iterable[CompletionQueue]],
    ) -> None:
        self._engine, self._messages, self._pin, self._queues = engine, messages, pin, queues
        self.count = messages.vectors
        self.mask = 0
        """INTMS and INTMC: vectors that do not work the pin."""
        self.threshold = self.time = 0
        """Of coalescing: completions less one, and units of 100 us; it is off if either is 0."""
        self.uncoalesced: set[int] = set()
        self._held: dict[int, int] = {}
        self._timers: dict[int, Timer] = {}

    @property
    def by_message(self) -> bool:
        """Whether the guest wants messages, and not the pin."""
        return self._messages.enabled

    def completed(self, queue: CompletionQueue, count: int) -> None:
        """`count` entries were posted to `queue`."""
        if not queue.interrupts:
            return
        vector = queue.vector
        if self.threshold and self.time and queue.id and vector not in self.uncoalesced:
            held = self._held[vector] = self._held.get(vector, 0) + count
            if held <= self.threshold:
                if vector not in self._timers:
                    seconds = self.time * UNIT
                    self._timers[vector] = self._engine.after(seconds, lambda: self._fire(vector))
                return
        self._fire(vector)

    def _fire(self, vector: int) -> None:
        timer = self._timers.pop(vector, None)
        if timer is not None:
            timer.cancel()
        self._held.pop(vector, None)
        if self._messages.enabled:
            self._messages.notify(vector)
        else:
            self.drive_pin()

    def drive_pin(self) -> None:
        """The pin is up while there is an entry that nobody has taken, and that may say so."""
        level = False
        if not self._messages.enabled:
            for queue in self._queues():
                if queue.head != queue.tail and queue.interrupts:
                    level |= not self.mask >> queue.vector & 1 and queue.vector not in self._held
        self._pin.set(level)

    def reset(self) -> None:
        """Nothing is masked, nothing is held back."""
        self.mask = self.threshold = self.time = 0
        self.uncoalesced.clear()
        self._held.clear()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._pin.set(False)

    def save(self) -> dict[str, Any]:
        """Everything; what is held back is told at once where it is restored."""
        return {
            "mask": self.mask,
            "threshold": self.threshold,
            "time": self.time,
            "uncoalesced": sorted(self.uncoalesced),
            "held": sorted(self._held),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self.reset()
        self.mask, self.threshold, self.time = state["mask"], state["threshold"], state["time"]
        self.uncoalesced = set(state["uncoalesced"])
        for vector in state["held"]:
            self._fire(vector)
        self.drive_pin()
