"""A disk that takes its time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from drivebay.disk.contract import Buffers, Disk, Extent, byte_length
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.latency import Latency
from drivebay.suspend import sleep

__all__ = ["Delay"]

T = TypeVar("T")


class Delay(Filter):
    """Each operation on `below` begins as late as `latency` says, which may be set at any time.

    An operation that waits is given up at once by a reset.
    """

    kind = "delay"

    def __init__(
        self,
        below: Disk,
        latency: Latency,
        sleep: Callable[[float], Awaitable[None]] = sleep,
    ) -> None:
        super().__init__(below)
        self.latency = latency
        self._sleep = sleep

    @property
    def details(self) -> dict[str, str | int | bool]:
        """The profile."""
        return {"delay": str(self.latency)}

    def read(self, sector: int, buffers: Buffers) -> Coroutine[Any, Any, None]:
        """Read, later."""
        seconds = self.latency(sector, byte_length(buffers) // self.sector_size)
        if seconds <= 0:
            return self.below.read(sector, buffers)
        return self._later(seconds, lambda: self.below.read(sector, buffers))

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Coroutine[Any, Any, None]:
        """Write, later."""
        seconds = self.latency(sector, byte_length(buffers) // self.sector_size)
        if seconds <= 0:
            return self.below.write(sector, buffers, fua)
        return self._later(seconds, lambda: self.below.write(sector, buffers, fua))

    async def flush(self) -> None:
        """Flush, later."""
        await self._later(self.latency(0, 0), self.below.flush)

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap, later."""
        await self._later(self.latency(sector, count), lambda: self.below.unmap(sector, count))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero, later."""
        await self._later(
            self.latency(sector, count),
            lambda: self.below.write_zeroes(sector, count, fua, unmap),
        )

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What is there, later."""
        return await self._later(
            self.latency(sector, count), lambda: self.below.extents(sector, count)
        )

    async def _later(self, seconds: float, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if seconds > 0:
            await self._sleep(seconds)
        return await operation()
