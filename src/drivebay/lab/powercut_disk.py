"""What a power cut may leave, as a disk: nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence

from drivebay.disk.contract import MOST_EXTENTS, Buffers, Disk, Extent, byte_length
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.testing.history import Image

__all__ = ["ImageDisk", "open_image"]


class ImageDisk(Disk):
    """`image` over `base`, the disk as it was when the history began; to be read."""

    kind = "power cut image"
    read_only = True
    volatile_cache = False
    persistent = False

    def __init__(self, image: Image, base: Disk) -> None:
        super().__init__()
        self._pieces, self._base = image.pieces, base
        self.sector_size = base.sector_size
        self.physical_sector_size = base.physical_sector_size
        self.sector_count = base.sector_count

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read what was there, and put over it what the power cut has left."""
        self.check_range(sector, byte_length(buffers) // self.sector_size)
        await self._base.read(sector, buffers)
        start = sector * self.sector_size
        for buffer in buffers:
            self._pieces.fill(start, buffer)
            start += len(buffer)

    async def flush(self) -> None:
        """Nothing is written."""

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What was written, and between it what the disk below says."""
        self.check_range(sector, count)
        size, end = self.sector_size, sector + count
        found: list[Extent] = []
        for low, high, change in self._pieces.shown(sector * size, end * size):
            first, last = low // size, -(-high // size)
            if first > sector:
                found += await self._below(sector, first)
                sector = first
            if last > sector:  # several may lie in a sector
                zero = change.data is None and low % size == 0 == high % size
                found.append(Extent(sector, last - sector, allocated=True, zero=zero))
                sector = last
            if len(found) >= MOST_EXTENTS:
                return found
        return found + await self._below(sector, end)

    async def _below(self, sector: int, end: int) -> list[Extent]:
        found: list[Extent] = []
        while sector < end:
            found += await self._base.extents(sector, end - sector)
            sector = found[-1].sector + found[-1].count
        return found

    @property
    def inner(self) -> Sequence[Disk]:
        """The disk as it was."""
        return (self._base,)


def open_image(image: Image, base: Disk) -> LayeredDisk:
    """`image` over `base` under a layer in memory, which takes what is written.

    To close it closes that layer only.
    """
    top = RamLayer(base.byte_count, sector_size=base.sector_size)
    return LayeredDisk.over(top, ImageDisk(image, base))
