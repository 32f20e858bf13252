"""Any disk as a layer: it holds every one of its sectors."""

from __future__ import annotations

from drivebay.disk.filters.base import Filter
from drivebay.disk.layers.layer import Layer
from drivebay.disk.layers.presence import Run

__all__ = ["DiskLayer"]


class DiskLayer(Filter, Layer):
    """`below` as a layer."""

    kind = "disk layer"

    def runs(self, sector: int, count: int) -> list[Run]:
        """Everything is present."""
        return [(sector, count, True)]

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Unmap in the disk, whatever lies below: nothing there ever shows."""
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Zero in the disk."""
        await self.below.write_zeroes(sector, count, fua, unmap)
