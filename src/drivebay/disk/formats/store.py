"""What an image format keeps its bytes in: any disk, by byte offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.disk.buffers import ZEROES, aligned, cut, gather, scatter
from drivebay.disk.contract import Buffers, Disk, byte_length
from drivebay.suspend import Lock

if TYPE_CHECKING:
    from drivebay.disk.contract import Operation

__all__ = ["Store"]


class Store:
    """The bytes of `disk`, for a format that puts a disk of its own into them.

    What is aligned to the sectors of `disk` goes straight through, without a copy. The rest is
    read, changed and written back, one such write at a time: writes of either sort that run at the
    same time must not touch the same bytes, and may share a sector only if neither is aligned.
    Methods raise `DiskError`.
    """

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._sector = disk.sector_size
        self._shift = self._sector.bit_length() - 1
        self._edges = Lock()  # two writes may share the sector at their edge
        self._growth = Lock()

    @property
    def size(self) -> int:
        """Bytes, a whole number of the disk's sectors."""
        return self.disk.byte_count

    async def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, which the caller has found reasonable."""
        data = memoryview(bytearray(length))
        await self.read_into(offset, [data])
        return bytes(data)

    def read_into(self, offset: int, buffers: Buffers) -> Operation:
        """Fill `buffers` from `offset` on."""
        if (offset | byte_length(buffers)) & (self._sector - 1):
            return self._read_part(offset, buffers)
        return self.disk.read(offset >> self._shift, buffers)

    async def _read_part(self, offset: int, buffers: Buffers) -> None:
        if not (length := byte_length(buffers)):
            return
        bounce, skipped = self._around(offset, length)
        await self.disk.read(offset >> self._shift, [bounce])
        scatter(buffers, bounce[skipped : skipped + length])

    def write(self, offset: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write `buffers` from `offset` on; with `fua` they are stable on return."""
        if (offset | byte_length(buffers)) & (self._sector - 1):
            return self._write_part(offset, buffers, fua)
        return self.disk.write(offset >> self._shift, buffers, fua)

    async def _write_part(self, offset: int, buffers: Buffers, fua: bool = False) -> None:
        if not (length := byte_length(buffers)):
            return
        bounce, skipped = self._around(offset, length)
        async with self._edges:
            await self.disk.read(offset >> self._shift, [bounce])
            gather(buffers, bounce[skipped : skipped + length])
            await self.disk.write(offset >> self._shift, [bounce], fua)

    def _around(self, offset: int, length: int) -> tuple[memoryview, int]:
        """Memory for the sectors that the range touches, and where in them it begins."""
        skipped = offset & (self._sector - 1)
        return aligned(-(-(skipped + length) >> self._shift) << self._shift), skipped

    async def write_zeroes(self, offset: int, length: int, unmap: bool = False) -> None:
        """Make the range read zero; with `unmap` its space may be given back."""
        first = -(-offset >> self._shift)
        last = (offset + length) >> self._shift
        if first >= last:
            await self._write_part(offset, cut([ZEROES], 0, length))
            return
        await self._write_part(offset, [ZEROES[: (first << self._shift) - offset]])
        await self.disk.write_zeroes(first, last - first, unmap=unmap)
        end = last << self._shift
        await self._write_part(end, [ZEROES[: offset + length - end]])

    async def discard(self, offset: int, length: int) -> None:
        """Give back the space of whole sectors in the range, whose content no longer matters."""
        first = -(-offset >> self._shift)
        last = (offset + length) >> self._shift
        if first < last:
            await self.disk.unmap(first, last - first)

    def flush(self) -> Operation:
        """Make every write that has completed stable."""
        return self.disk.flush()

    async def grow(self, size: int) -> None:
        """Make it at least `size` bytes; what is new reads zero."""
        async with self._growth:
            if size > self.size:
                await self.disk.resize(-(-size >> self._shift))

    def close(self) -> None:
        """Close the disk."""
        self.disk.close()
