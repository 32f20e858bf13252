"""A disk that is no faster than it may be."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, fields
from typing import Any

from drivebay.disk.contract import Buffers, Disk, Operation, byte_length
from drivebay.disk.filters.base import Filter
from drivebay.suspend import sleep

__all__ = ["Limits", "Throttle"]


@dataclass(frozen=True)
class Limits:
    """What a disk may do each second; None is no limit. Several hold at once."""

    iops: int | None = None
    """Operations of all kinds but flushes."""
    bps: int | None = None
    """Bytes read and written."""
    read_iops: int | None = None
    read_bps: int | None = None
    write_iops: int | None = None
    """Writes, unmaps and write-zeroes."""
    write_bps: int | None = None
    burst: float = 0.1
    """Seconds that were not used and may be made up for."""

    def __str__(self) -> str:
        return ",".join(
            f"{field.name.replace('_', '-')}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        )


class _Bucket:
    """Grants in the order they are asked for: each begins when those before it are paid for.

    So one that is larger than the burst is let through, and those after it wait the longer.
    """

    def __init__(self, rate: int, burst: float) -> None:
        self.rate, self._burst = rate, burst
        self._paid = 0.0

    def take(self, amount: int, now: float) -> float:
        """Take `amount`; when it may be used."""
        begin = max(self._paid, now - self._burst)
        self._paid = begin + amount / self.rate
        return begin

    def give_back(self, amount: int) -> None:
        """It was not used."""
        self._paid -= amount / self.rate


_Cost = tuple[_Bucket, bool]  # what is paid there: bytes, or one


class Throttle(Filter):
    """Keeps what is asked of `below` within `limits`, first come, first served.

    An operation that a reset gives up while it waits has cost nothing.
    """

    kind = "throttle"

    def __init__(
        self,
        below: Disk,
        limits: Limits,
        sleep: Callable[[float], Awaitable[None]] = sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(below)
        self._sleep, self._clock = sleep, clock
        self.limits = limits

    @property
    def limits(self) -> Limits:
        """May be set at any time; what waits already, waits as it was told."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        def bucket(rate: int | None, by_bytes: bool) -> list[_Cost]:
            return [(_Bucket(rate, limits.burst), by_bytes)] if rate else []

        both = bucket(limits.iops, False) + bucket(limits.bps, True)
        self._limits = limits
        self._reads = both + bucket(limits.read_iops, False) + bucket(limits.read_bps, True)
        self._writes = both + bucket(limits.write_iops, False) + bucket(limits.write_bps, True)

    @property
    def details(self) -> dict[str, str | int | bool]:
        """The limits."""
        return {"limits": str(self._limits)}

    def read(self, sector: int, buffers: Buffers) -> Coroutine[Any, Any, None]:
        """Read, when it is time."""
        if not self._reads:
            return self.below.read(sector, buffers)
        return self._paid(
            self._reads, byte_length(buffers), lambda: self.below.read(sector, buffers)
        )

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Coroutine[Any, Any, None]:
        """Write, when it is time."""
        if not self._writes:
            return self.below.write(sector, buffers, fua)
        return self._paid(
            self._writes, byte_length(buffers), lambda: self.below.write(sector, buffers, fua)
        )

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap, when it is time."""
        await self._paid(self._writes, 0, lambda: self.below.unmap(sector, count))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero, when it is time."""
        await self._paid(
            self._writes, 0, lambda: self.below.write_zeroes(sector, count, fua, unmap)
        )

    async def _paid(
        self, costs: list[_Cost], length: int, operation: Callable[[], Operation]
    ) -> None:
        now = self._clock()
        amounts = [(bucket, length if by_bytes else 1) for bucket, by_bytes in costs]
        begin = max((bucket.take(amount, now) for bucket, amount in amounts), default=now)
        if begin > now:
            try:
                await self._sleep(begin - now)
            except BaseException:
                for bucket, amount in amounts:
                    bucket.give_back(amount)
                raise
        await operation()
