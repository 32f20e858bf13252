"""A disk as one host sees it whose reservations may forbid it to read or write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drivebay.disk.contract import Buffers, Disk, Extent
from drivebay.disk.errors import ReservationConflict
from drivebay.disk.filters.base import Filter

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from drivebay.disk.reservations import Nexus

__all__ = ["Guarded"]


class Guarded(Filter):
    """What `nexus` may not do to `below` raises `ReservationConflict`.

    It is asked when an operation begins: one under way ends, unless its controller is told to abort
    it. A controller of NVMe gives another `nexus` when it gets another host identifier.
    """

    kind = "guarded"

    def __init__(self, below: Disk, nexus: Nexus) -> None:
        super().__init__(below)
        self.nexus = nexus

    def read(self, sector: int, buffers: Buffers) -> Coroutine[Any, Any, None]:
        """Read, if the host may."""
        return self.below.read(sector, buffers) if self.nexus.may_read else _conflict("read")

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Coroutine[Any, Any, None]:
        """Write, if the host may."""
        if not self.nexus.may_write:
            return _conflict("write")
        return self.below.write(sector, buffers, fua)

    def flush(self) -> Coroutine[Any, Any, None]:
        """Flush, if the host may write (SBC-3 section 4.17, NVMe 2.0 section 8.19)."""
        return self.below.flush() if self.nexus.may_write else _conflict("flush")

    def unmap(self, sector: int, count: int) -> Coroutine[Any, Any, None]:
        """Unmap, if the host may write."""
        return self.below.unmap(sector, count) if self.nexus.may_write else _conflict("unmap")

    def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> Coroutine[Any, Any, None]:
        """Zero, if the host may write."""
        if not self.nexus.may_write:
            return _conflict("write_zeroes")
        return self.below.write_zeroes(sector, count, fua, unmap)

    def extents(self, sector: int, count: int) -> Coroutine[Any, Any, list[Extent]]:
        """What is there, if the host may read (as GET LBA STATUS)."""
        return self.below.extents(sector, count) if self.nexus.may_read else _conflict("extents")

    def close(self) -> None:
        """Close the nexus. The disk below is other hosts' as well: whoever shares it closes it."""
        self.nexus.close()


async def _conflict(operation: str) -> Any:
    raise ReservationConflict(f"{operation}: another host has reserved the disk")
