"""How long a disk takes: the profiles of `drivebay.disk.filters.delay`."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Fixed", "HardDisk", "Latency", "Tail"]

SLOW: Final = 0.01
"""Of how many requests `Tail` delays one by ``p99``: of a hundred."""


class Latency(Protocol):
    """Says of each operation how long it takes."""

    def __call__(self, sector: int, count: int) -> float:
        """Seconds until the operation on `count` sectors may begin, from now; 0 for at once.

        A flush is of no sectors.
        """


class Fixed:
    """Every operation takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, sector: int, count: int) -> float:
        """The same for all."""
        return self._seconds

    def __str__(self) -> str:
        return f"fixed={_text(self._seconds)}"


class Tail:
    """One operation of a hundred takes `p99` seconds, the others alike, so that all take `average`.

    Raises `ValueError` for an average that cannot come out so.
    """

    def __init__(self, average: float, p99: float, seed: int = 0) -> None:
        if not SLOW * p99 <= average <= p99:
            raise ValueError("the average must lie between a hundredth of p99 and p99")
        self._average, self._p99 = average, p99
        self._rest = (average - SLOW * p99) / (1 - SLOW)
        self._random = random.Random(seed)

    def __call__(self, sector: int, count: int) -> float:
        """Now and then long."""
        return self._p99 if self._random.random() < SLOW else self._rest

    def __str__(self) -> str:
        return f"average={_text(self._average)},p99={_text(self._p99)}"


class HardDisk:
    """One arm over a disk of ``sectors()`` sectors that turns `rpm` times a minute.

    An operation waits for those before it. One that begins where the last ended is in time; else
    the arm moves, for as long as the root of the distance, and the sector must come round. `seek`
    is the average of the move, in seconds, between places that have nothing to do with each other.
    What it takes to move the data is left to the disk below.
    """

    def __init__(
        self,
        sectors: Callable[[], int],
        rpm: int = 7200,
        seek: float = 0.009,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sectors, self._clock = sectors, clock
        self._rpm, self._seek = rpm, seek
        self._turn = 60 / rpm
        self._random = random.Random(seed)
        self._head = 0
        self._free = 0.0  # when the arm is

    def __call__(self, sector: int, count: int) -> float:
        """Wait for the arm, the move and the turn."""
        now = self._clock()
        self._free = max(self._free, now)
        if count and sector != self._head:
            distance = min(abs(sector - self._head) / max(self._sectors(), 1), 1.0)
            # The mean of the root of the distance of two random places is 8/15.
            self._free += self._seek * 15 / 8 * math.sqrt(distance)
            self._free += self._turn * self._random.random()
        if count:
            self._head = sector + count
        return self._free - now

    def __str__(self) -> str:
        return f"hdd,rpm={self._rpm},seek={_text(self._seek)}"


def _text(seconds: float) -> str:
    return f"{seconds * 1000:g}ms"
