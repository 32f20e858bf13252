"""A disk on which an unmap does what one wants to see of it."""

from __future__ import annotations

from drivebay.disk.contract import Disk, Unmap
from drivebay.disk.errors import ReadOnly
from drivebay.disk.filters.base import Filter

__all__ = ["Discard"]


class Discard(Filter):
    """`below`, whose unmaps are as `behaviour` says: zeroes are written where that is not its own
    way; and of a range that is unspecified afterwards the first half reads zero and the rest, a
    single sector, too, is what it was.
    """

    kind = "discard"

    def __init__(self, below: Disk, behaviour: Unmap) -> None:
        super().__init__(below)
        self.unmap_behaviour = behaviour

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap as it was said."""
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self.kind)
        if self.unmap_behaviour is Unmap.UNSPECIFIED:
            count //= 2
        if count and self.unmap_behaviour is not Unmap.IGNORED:
            await self.below.write_zeroes(sector, count, unmap=True)
