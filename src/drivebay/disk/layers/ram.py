"""A layer in memory: it holds what was written since it was made, until it is closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.buffers import cut
from drivebay.disk.contract import Buffers, Disk, Operation, byte_length
from drivebay.disk.filters.base import Filter
from drivebay.disk.layers.layer import CacheLayer
from drivebay.disk.layers.presence import Run, SectorSet
from drivebay.suspend import DONE

__all__ = ["RamLayer"]


class RamLayer(Filter, CacheLayer):
    """A sparse RAM disk of `size` bytes, and the set of sectors that were written to it.

    Unmapped sectors read zero: they are dropped where everything below reads zero too, and else
    held as holes, which take no memory.

    Raises `DiskOpenError` unless `size` is a whole number of sectors, at least one.
    """

    kind = "ram layer"

    def __init__(self, size: int, *, sector_size: int = 512) -> None:
        super().__init__(RamDisk(size, sector_size=sector_size))
        self._held = SectorSet()
        self.runs = self._held.runs  # type: ignore[method-assign]
        self._shift = sector_size.bit_length() - 1

    def runs(self, sector: int, count: int) -> list[Run]:
        """What was written is present."""
        return self._held.runs(sector, count)

    @property
    def held(self) -> Iterator[tuple[int, int]]:
        """All that is present, as first sectors and counts, in order."""
        return self._held.ranges()

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write, then show it."""
        operation = self.below.write(sector, buffers, fua)
        if operation is DONE:
            self._held.add(sector, byte_length(buffers) >> self._shift)
            return DONE
        return self._show_after(operation, sector, byte_length(buffers) >> self._shift)

    async def _show_after(self, operation: Operation, sector: int, count: int) -> None:
        await operation
        if count:
            self._held.add(sector, count)

    async def put(self, sector: int, buffers: Buffers) -> None:
        """Write what is absent. So little is written at once: nobody comes between."""
        self.below.check_range(sector, byte_length(buffers) >> self._shift)
        for start, count, present in self._held.runs(sector, byte_length(buffers) >> self._shift):
            if not present:
                first = (start - sector) << self._shift
                await self.write(start, cut(buffers, first, first + (count << self._shift)))

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Free the memory, then drop the sectors or show that they are zero."""
        await self.below.unmap(sector, count)
        if next_is_zero:
            self._held.remove(sector, count)
        elif count:
            self._held.add(sector, count)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """The same as an unmap: holes are zeroes."""
        await self.unmap(sector, count, next_is_zero)

    async def resize(self, sector_count: int) -> None:
        """Resize; what is cut off is forgotten."""
        await self.below.resize(sector_count)
        self._held.remove_from(sector_count)

    @property
    def inner(self) -> Sequence[Disk]:
        """None: where it keeps its data is its own affair."""
        return ()
