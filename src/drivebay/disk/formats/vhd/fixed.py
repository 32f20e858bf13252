"""A fixed VHD image: the disk's sectors, then a footer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drivebay.disk.contract import Buffers, Disk, Extent, Operation, Unmap, byte_length
from drivebay.disk.errors import ReadOnly
from drivebay.disk.formats.chain import Image
from drivebay.disk.formats.sparse import mapped_extents
from drivebay.disk.formats.vhd.footer import SECTOR

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store
    from drivebay.disk.formats.vhd.footer import Footer
    from drivebay.disk.layers.presence import Run

__all__ = ["FixedVhd"]


class FixedVhd(Image):
    """The first `footer.capacity` bytes of `store`."""

    kind = "vhd"

    def __init__(self, store: Store, footer: Footer, *, read_only: bool) -> None:
        super().__init__()
        below = store.disk
        self.store, self.footer = store, footer
        self.sector_size = SECTOR
        self.physical_sector_size = below.physical_sector_size
        self.sector_count = footer.capacity // SECTOR
        self.read_only = read_only
        self.volatile_cache = below.volatile_cache
        self.persistent = below.persistent
        # A larger sector below, of which a part is unmapped, would have to be written.
        if below.sector_size == SECTOR:
            self.unmap_behaviour = below.unmap_behaviour
            self.optimal_unmap_sectors = below.optimal_unmap_sectors
        self.disk_id = footer.disk_id
        self._capacity = footer.capacity

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Fill `buffers` from the store."""
        length = len(buffers[0]) if len(buffers) == 1 else byte_length(buffers)
        offset = sector * SECTOR
        if length and 0 <= offset <= self._capacity - length:
            return self.store.read_into(offset, buffers)
        return self._check(sector, length // SECTOR)

    async def _check(self, sector: int, count: int) -> None:
        self.check_range(sector, count)

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write `buffers` to the store."""
        length = len(buffers[0]) if len(buffers) == 1 else byte_length(buffers)
        offset = sector * SECTOR
        if length and 0 <= offset <= self._capacity - length and not self.read_only:
            return self.store.write(offset, buffers, fua)
        return self._check_change(sector, length // SECTOR)

    async def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self.kind)

    def flush(self) -> Operation:
        """Flush the disk below."""
        return self.store.flush()

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Unmap in the disk below, if that has sectors like these."""
        await self._check_change(sector, count)
        if self.unmap_behaviour is not Unmap.IGNORED:
            await self.store.disk.unmap(sector, count)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Zero in the disk below."""
        await self._check_change(sector, count)
        await self.store.write_zeroes(sector * SECTOR, count * SECTOR, unmap)
        if fua:
            await self.store.flush()

    def runs(self, sector: int, count: int) -> list[Run]:
        """Everything is present."""
        return [(sector, count, True)]

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What the disk below says."""
        self.check_range(sector, count)
        if not count:
            return []
        return await mapped_extents(self, self.store, sector * SECTOR, sector, count * SECTOR)

    @property
    def inner(self) -> Sequence[Disk]:
        """The disk that the image lies on."""
        return (self.store.disk,)

    @property
    def details(self) -> dict[str, str | int | bool]:
        """That it is fixed."""
        return {"type": "fixed"}

    @property
    def allocated_bytes(self) -> int | None:
        """What the disk below holds for the image."""
        return self.store.disk.allocated_bytes

    def close(self) -> None:
        """Close the disk below."""
        self.store.close()
