"""QEMU's cache modes over any disk."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from drivebay.disk.backends.file import CACHE_MODES
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.filters.base import Filter
from drivebay.suspend import DONE

__all__ = ["Cache"]


class Cache(Filter):
    """Shows `below` in one of QEMU's cache modes.

    ``writethrough`` and ``directsync`` complete nothing before it is stable, and show no volatile
    cache. ``unsafe`` shows one, and makes nothing stable. ``writeback`` and ``none`` are what
    `below` does. Whether a page cache is used is up to what `below` is.
    """

    kind = "cache"

    def __init__(self, below: Disk, mode: str) -> None:
        super().__init__(below)
        self.mode = mode
        self._unsafe = not CACHE_MODES[mode].syncs
        self._through = not CACHE_MODES[mode].write_cache
        if self._unsafe or self._through:
            self.volatile_cache = self._unsafe
        else:
            self.write = below.write  # type: ignore[method-assign]
            self.write_zeroes = below.write_zeroes  # type: ignore[method-assign]
            self.unmap = below.unmap  # type: ignore[method-assign]
            self.flush = below.flush  # type: ignore[method-assign]

    @property
    def details(self) -> dict[str, str | int | bool]:
        """The mode."""
        return {"mode": self.mode}

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Coroutine[Any, Any, None]:
        """Write, and make it stable or not."""
        return self.below.write(sector, buffers, self._fua(fua))

    def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Zero, and make it stable or not."""
        return self.below.write_zeroes(sector, count, self._fua(fua), unmap)

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap, and make it stable or not: an unmap has no FUA of its own."""
        await self.below.unmap(sector, count)
        if self._through:
            await self.below.flush()

    def flush(self) -> Coroutine[Any, Any, None]:
        """Not forwarded in unsafe mode."""
        return DONE if self._unsafe else self.below.flush()

    def _fua(self, asked: bool) -> bool:
        return self._through or (asked and not self._unsafe)
