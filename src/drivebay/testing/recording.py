"""A disk that remembers what was asked of it."""

from __future__ import annotations

from dataclasses import dataclass

from drivebay.disk.contract import Buffers, Disk, byte_length
from drivebay.disk.filters.base import Filter

__all__ = ["Call", "RecordingDisk"]


@dataclass(frozen=True)
class Call:
    """One operation, as it was asked for; `data` is what was written, or read if it succeeded."""

    name: str
    sector: int = 0
    count: int = 0
    data: bytes = b""
    fua: bool = False
    unmap: bool = False


class RecordingDisk(Filter):
    """Passes everything on to `below` and lists it in `calls`, in the order of arrival::

        disk = RecordingDisk(RamDisk(1 << 20))
        ...                              # the guest writes and flushes
        assert [call.name for call in disk.calls] == ["write", "flush"]

    A read is listed when it has succeeded: its data are not known before.
    """

    kind = "recording"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self.calls: list[Call] = []

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read, then list it."""
        await self.below.read(sector, buffers)
        self.calls.append(Call("read", sector, self._count(buffers), b"".join(buffers)))

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """List it, then write."""
        data = b"".join(buffers)
        self.calls.append(Call("write", sector, self._count(buffers), data, fua))
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        """List it, then flush."""
        self.calls.append(Call("flush"))
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        """List it, then unmap."""
        self.calls.append(Call("unmap", sector, count))
        await self.below.unmap(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """List it, then zero."""
        self.calls.append(Call("write_zeroes", sector, count, b"", fua, unmap))
        await self.below.write_zeroes(sector, count, fua, unmap)

    async def resize(self, sector_count: int) -> None:
        """List it, with the new size as `count`, then resize."""
        self.calls.append(Call("resize", 0, sector_count))
        await self.below.resize(sector_count)

    async def eject(self) -> None:
        """List it, then eject."""
        self.calls.append(Call("eject"))
        await self.below.eject()

    def _count(self, buffers: Buffers) -> int:
        return byte_length(buffers) // self.sector_size
