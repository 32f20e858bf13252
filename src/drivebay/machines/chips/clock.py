"""Virtual time: it moves when somebody looks at it and when the CPU sleeps, and not otherwise.

A guest that waits five seconds for a key waits for as long as it takes to ask five seconds often;
one that gives a drive 30 seconds does not run out of patience because this computer is busy.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from typing import Final

__all__ = ["Alarm", "Clock", "WallClock"]

LOOK_NS: Final = 1000
"""What a look takes: about an access to a port of a real PC."""


class Alarm:
    """Something that happens at `due`, unless cancelled."""

    __slots__ = ("callback", "due")

    def __init__(self, due: int, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not let it happen."""
        self.callback = None


class Clock:
    """Nanoseconds since the machine was switched on."""

    def __init__(self) -> None:
        self.now = 0
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._order = itertools.count()

    def look(self) -> int:
        """The time; looking takes some."""
        self.advance(LOOK_NS)
        return self.now

    def at(self, due: int, callback: Callable[[], None]) -> Alarm:
        """Call `callback` when it is `due`."""
        alarm = Alarm(due, callback)
        heapq.heappush(self._alarms, (due, next(self._order), alarm))
        return alarm

    def advance(self, nanoseconds: int) -> None:
        """Let time pass, and happen what is due."""
        end = self.now + nanoseconds
        while self._alarms and self._alarms[0][0] <= end:
            due, _, alarm = heapq.heappop(self._alarms)
            if alarm.callback is not None:
                self.now = max(self.now, due)
                alarm.callback()
        self.now = max(self.now, end)

    def skip(self) -> bool:
        """Let time pass until something happens; False if nothing ever will."""
        while self._alarms and self._alarms[0][2].callback is None:
            heapq.heappop(self._alarms)
        if not self._alarms:
            return False
        self.advance(max(self._alarms[0][0] - self.now, 0))
        return True


class WallClock(Clock):
    """Time as it passes, for machines whose CPU does not ask us to go on. It has no alarms."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic_ns()

    def look(self) -> int:
        """The time."""
        self.now = time.monotonic_ns() - self._began
        return self.now
