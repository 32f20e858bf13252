"""A disk as NBD shows it: bytes at any offset, for several clients at once."""

from __future__ import annotations

from typing import Final

from drivebay.disk.buffers import aligned
from drivebay.disk.contract import Disk, Extent, Operation, Unmap
from drivebay.disk.formats.store import Store
from drivebay.disk.nbd.messages import (
    MOST_PAYLOAD,
    BlockStatus,
    StatusFlags,
    TransmissionFlags,
)
from drivebay.disk.nbd.options import Export as Offered
from drivebay.suspend import DONE, Gate

__all__ = ["Export"]

PREFERRED: Final = 4096
CACHED_AT_ONCE: Final = 1 << 20
MOST_STATUS: Final = (1 << 32) - 1


class Export:
    """`disk`, which all clients of a server share; so a flush of one covers the writes of all.

    Changes that fill whole sectors run side by side. One that does not reads a sector, changes a
    part of it and writes it back, alone: else it would write back what another has just replaced.
    """

    def __init__(self, disk: Disk, *, read_only: bool = False) -> None:
        self.disk = disk
        self.read_only = read_only or disk.read_only
        self._store = Store(disk)
        self._mask = disk.sector_size - 1
        self._shift = disk.sector_size.bit_length() - 1
        self._gate = Gate()

    def offered(self) -> Offered:
        """What a client is told."""
        flags = {"HAS_FLAGS": True, "READ_ONLY": self.read_only, "CAN_MULTI_CONN": True}
        flags |= dict.fromkeys(("SEND_DF", "SEND_FLUSH", "SEND_CACHE"), True)
        if not self.read_only:
            flags |= dict.fromkeys(("SEND_FUA", "SEND_WRITE_ZEROES", "SEND_FAST_ZERO"), True)
            flags["SEND_TRIM"] = self.disk.unmap_behaviour is not Unmap.IGNORED
        return Offered(
            self.disk.byte_count,
            TransmissionFlags.of(**flags),
            minimum=1 if self.disk.sector_size <= PREFERRED else self.disk.sector_size,
            preferred=max(PREFERRED, self.disk.physical_sector_size),
            maximum=MOST_PAYLOAD,
        )

    def lies_on_it(self, offset: int, length: int) -> bool:
        """Whether the export has these bytes, now."""
        return offset + length <= self.disk.byte_count

    @property
    def zeroes_fast(self) -> bool:
        """Whether an unmap makes zeroes."""
        return self.disk.unmap_behaviour is Unmap.ZEROES

    # -- operations ------------------------------------------------------------------------------

    def read(self, offset: int, view: memoryview) -> Operation:
        """Fill `view`."""
        if (offset | len(view)) & self._mask:
            return self._store.read_into(offset, [view])
        return self.disk.read(offset >> self._shift, [view])

    def write(self, offset: int, view: memoryview, fua: bool) -> Operation:
        """Write `view`."""
        if (offset | len(view)) & self._mask:
            return self._write_part(offset, view, fua)
        if self._gate.closed:
            return self._write_later(offset, view, fua)
        operation = self.disk.write(offset >> self._shift, [view], fua)
        return operation if operation is DONE else self._beside(operation)

    async def _write_part(self, offset: int, view: memoryview, fua: bool) -> None:
        async with self._gate.alone():
            await self._store.write(offset, [view], fua)

    async def _write_later(self, offset: int, view: memoryview, fua: bool) -> None:
        async with self._gate:
            await self.disk.write(offset >> self._shift, [view], fua)

    async def _beside(self, change: Operation) -> None:
        async with self._gate:
            await change

    async def write_zeroes(self, offset: int, length: int, fua: bool, unmap: bool) -> None:
        """Make the range read zero; with `unmap` its space may be given back."""
        if (offset | length) & self._mask:
            async with self._gate.alone():
                await self._store.write_zeroes(offset, length, unmap)
                if fua:
                    await self.disk.flush()
            return
        async with self._gate:
            sector, count = offset >> self._shift, length >> self._shift
            await self.disk.write_zeroes(sector, count, fua, unmap)

    async def trim(self, offset: int, length: int, fua: bool) -> None:
        """Give back the space of the sectors that lie wholly in the range."""
        first, last = -(-offset >> self._shift), (offset + length) >> self._shift
        if first < last:
            async with self._gate:
                await self.disk.unmap(first, last - first)
        if fua:
            await self.disk.flush()

    async def cache(self, offset: int, length: int) -> None:
        """Read the range, its first part at least, so that whatever caches has it."""
        scratch = aligned(CACHED_AT_ONCE)
        for start in range(offset, offset + min(length, MOST_PAYLOAD), CACHED_AT_ONCE):
            size = min(CACHED_AT_ONCE, offset + length - start)
            await self._store.read_into(start, [scratch[:size]])

    async def status(self, offset: int, length: int, one: bool) -> bytes:
        """The extents of the range as a BLOCK_STATUS chunk has them; only the first if `one`."""
        first, end = offset >> self._shift, -(-(offset + length) >> self._shift)
        parts, at = [], offset
        for extent in await self.disk.extents(first, end - first):
            stop = min((extent.sector + extent.count) << self._shift, offset + length)
            parts.append((stop - at, _flags(extent)))
            at = stop
        merged = _merged(parts)
        return b"".join(BlockStatus(*part).pack() for part in (merged[:1] if one else merged))


def _flags(extent: Extent) -> int:
    return StatusFlags.HOLE * (not extent.allocated) | StatusFlags.ZERO * extent.zero


def _merged(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours that are alike as one."""
    found: list[tuple[int, int]] = []
    for length, flags in parts:
        if found and found[-1][1] == flags and found[-1][0] + length <= MOST_STATUS:
            found[-1] = (found[-1][0] + length, flags)
        else:
            found.append((length, flags))
    return found
