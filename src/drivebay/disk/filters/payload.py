"""A part of a disk, in sectors of its own, to be read."""

from __future__ import annotations

from drivebay.disk.contract import Buffers, Disk, Extent, byte_length
from drivebay.disk.errors import InvalidInput, ReadOnly
from drivebay.disk.filters.base import Filter

__all__ = ["Payload"]


class Payload(Filter):
    """The bytes of `below` from `offset` on, `length` of them or to its end, to be read.

    They are in sectors of `sector_size` bytes, which are whole ones of `below`.
    """

    kind = "payload"

    def __init__(self, below: Disk, offset: int, length: int | None, sector_size: int) -> None:
        super().__init__(below)
        self._ratio = sector_size // below.sector_size
        self._first = offset // below.sector_size
        self._length = length
        self.sector_size, self.read_only = sector_size, True
        self.physical_sector_size = max(sector_size, below.physical_sector_size)

    @property
    def sector_count(self) -> int:  # type: ignore[override]
        """As many as there are left below."""
        left = max(self.below.sector_count - self._first, 0) // self._ratio
        return left if self._length is None else min(self._length // self.sector_size, left)

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read from where they are."""
        self.check_range(sector, byte_length(buffers) // self.sector_size)
        await self.below.read(self._first + sector * self._ratio, buffers)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """Not forwarded: what is not allocated is noise as well."""
        return await Disk.extents(self, sector, count)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Not forwarded: refused."""
        raise ReadOnly("write to a volume that is only read")

    async def unmap(self, sector: int, count: int) -> None:
        """Not forwarded: refused."""
        raise ReadOnly("unmap of a volume that is only read")

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Not forwarded: refused."""
        raise ReadOnly("write_zeroes to a volume that is only read")

    async def resize(self, sector_count: int) -> None:
        """Not forwarded: refused."""
        raise InvalidInput("a volume that is only read cannot be resized")
