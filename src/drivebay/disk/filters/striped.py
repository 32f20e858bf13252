"""RAID-0: the chunks of a disk lie on several disks in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from drivebay.disk.buffers import cut
from drivebay.disk.contract import (
    MOST_EXTENTS,
    Buffers,
    Disk,
    Extent,
    Operation,
    Unmap,
    byte_length,
)
from drivebay.disk.errors import DiskOpenError, InvalidInput
from drivebay.suspend import together

__all__ = ["CHUNK", "Striped"]

CHUNK: Final = 128 << 10


class _Part(NamedTuple):
    """Sectors of one chunk: here, and on the disk they lie on."""

    disk: int
    sector: int
    length: int
    at: int


class Striped(Disk):
    """Chunk i of `chunk` bytes lies on disk i mod n, as its chunk i div n.

    The disks are alike in size, sector size and in being read-only or not; of each the whole chunks
    are used. What concerns several disks is done on all of them side by side, with one operation
    each. Raises `DiskOpenError`.
    """

    kind = "striped"

    def __init__(self, disks: Sequence[Disk], chunk: int = CHUNK) -> None:
        super().__init__()
        self._disks = tuple(disks)
        if not disks:
            raise DiskOpenError("striped: of no disks", "it needs one at least")
        first = disks[0]
        for name, what in (
            ("sector_size", "sectors"),
            ("sector_count", "sizes"),
            ("read_only", "rights to write"),
        ):
            if len({getattr(disk, name) for disk in disks}) > 1:
                raise DiskOpenError(f"striped: disks of different {what}", "they must be alike")
        if chunk <= 0 or chunk % first.sector_size:
            raise DiskOpenError(
                f"striped: chunks of {chunk} bytes",
                f"a chunk is a whole number of sectors of {first.sector_size} bytes",
            )
        self._chunk = chunk // first.sector_size
        self.sector_size, self.read_only = first.sector_size, first.read_only
        self.physical_sector_size = max(disk.physical_sector_size for disk in disks)
        self.volatile_cache = any(disk.volatile_cache for disk in disks)
        self.persistent = all(disk.persistent for disk in disks)
        behaviours = {disk.unmap_behaviour for disk in disks}
        self.unmap_behaviour = behaviours.pop() if len(behaviours) == 1 else Unmap.UNSPECIFIED
        self.optimal_unmap_sectors = max(disk.optimal_unmap_sectors for disk in disks) * len(disks)
        self.sector_count = self._usable()
        if not self.sector_count:
            raise DiskOpenError(
                f"striped: the disks are smaller than a chunk of {chunk} bytes",
                "make them larger, or the chunks smaller",
            )
        self._stop = [disk.on_resize(self._look) for disk in disks]

    def _usable(self) -> int:
        chunks = min(disk.sector_count for disk in self._disks) // self._chunk
        return chunks * self._chunk * len(self._disks)

    def _look(self, _: int) -> None:
        """A disk below has been resized."""
        if (usable := self._usable()) != self.sector_count:
            self.sector_count = usable
            self._resized()

    # -- where things are ------------------------------------------------------------------------

    def _parts(self, sector: int, count: int) -> Iterator[_Part]:
        """The sectors of a range, a chunk at a time."""
        while count:
            chunk, offset = divmod(sector, self._chunk)
            row, disk = divmod(chunk, len(self._disks))
            length = min(count, self._chunk - offset)
            yield _Part(disk, sector, length, row * self._chunk + offset)
            sector, count = sector + length, count - length

    def _ranges(self, sector: int, count: int) -> list[tuple[Disk, int, int]]:
        """The range on each disk that has a part of it: one, for its chunks lie side by side."""
        found = []
        stop = sector + count
        for number, disk in enumerate(self._disks):
            begin, end = self._before(number, sector), self._before(number, stop)
            if begin < end:
                found.append((disk, begin, end - begin))
        return found

    def _before(self, number: int, sector: int) -> int:
        """How many sectors of disk `number` lie before `sector`."""
        rows, offset = divmod(sector, self._chunk * len(self._disks))
        inside = min(max(offset - number * self._chunk, 0), self._chunk)
        return rows * self._chunk + inside

    # -- operations ------------------------------------------------------------------------------

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read from the disks that hold the data."""
        await self._move(sector, buffers, lambda disk, at, data: disk.read(at, data))

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write to the disks that hold the data."""
        await self._move(sector, buffers, lambda disk, at, data: disk.write(at, data, fua))

    async def _move(
        self, sector: int, buffers: Buffers, move: Callable[[Disk, int, Buffers], Operation]
    ) -> None:
        size = self.sector_size
        count = byte_length(buffers) // size
        self.check_range(sector, count)
        chunk, offset = divmod(sector, self._chunk)
        if offset + count <= self._chunk:
            row, number = divmod(chunk, len(self._disks))
            await move(self._disks[number], row * self._chunk + offset, buffers)
            return
        data: dict[int, tuple[int, list[memoryview]]] = {}
        for part in self._parts(sector, count):
            start = (part.sector - sector) * size
            _, pieces = data.setdefault(part.disk, (part.at, []))
            pieces += cut(buffers, start, start + part.length * size)
        await together(move(self._disks[n], at, pieces) for n, (at, pieces) in data.items())

    async def flush(self) -> None:
        """Flush every disk."""
        await together(disk.flush() for disk in self._disks)

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap one range on each disk."""
        self.check_range(sector, count)
        await together(disk.unmap(at, n) for disk, at, n in self._ranges(sector, count))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero one range on each disk."""
        self.check_range(sector, count)
        ranges = self._ranges(sector, count)
        await together(disk.write_zeroes(at, n, fua, unmap) for disk, at, n in ranges)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What the disks say of each chunk."""
        self.check_range(sector, count)
        found: list[Extent] = []
        for part in islice(self._parts(sector, count), MOST_EXTENTS):
            first, left = part.sector, part.length
            while left:
                at = part.at + first - part.sector
                for below in await self._disks[part.disk].extents(at, left):
                    _append(found, Extent(first, below.count, below.allocated, below.zero))
                    first, left = first + below.count, left - below.count
        return found

    async def resize(self, sector_count: int) -> None:
        """Resize every disk. Raises `InvalidInput` unless each gets whole chunks."""
        each, rest = divmod(sector_count, self._chunk * len(self._disks))
        if rest or not each:
            raise InvalidInput(f"striped: {sector_count} sectors are no whole chunks on each disk")
        await together(disk.resize(each * self._chunk) for disk in self._disks)

    async def refresh(self) -> None:
        """Look at every disk."""
        await together(disk.refresh() for disk in self._disks)

    async def eject(self) -> None:
        """Eject every disk."""
        await together(disk.eject() for disk in self._disks)

    # -- what people see -------------------------------------------------------------------------

    @property
    def inner(self) -> Sequence[Disk]:
        """The disks, in their order."""
        return self._disks

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Bytes in a chunk."""
        return {"chunk": self._chunk * self.sector_size}

    @property
    def allocated_bytes(self) -> int | None:
        """What the disks hold together."""
        held = [disk.allocated_bytes for disk in self._disks]
        return None if None in held else sum(n for n in held if n is not None)

    def close(self) -> None:
        """Close every disk."""
        for stop in self._stop:
            stop()
        for disk in self._disks:
            disk.close()


def _append(extents: list[Extent], new: Extent) -> None:
    """Add an extent that follows the last, as a part of it if they are alike."""
    if extents:
        last = extents[-1]
        if (last.allocated, last.zero) == (new.allocated, new.zero):
            extents[-1] = Extent(last.sector, last.count + new.count, last.allocated, last.zero)
            return
    extents.append(new)
