"""What images have in common that give each block of the disk a place of its own in the file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

from drivebay.disk.buffers import cut, zero
from drivebay.disk.contract import MOST_EXTENTS, Buffers, Disk, Extent, Operation, Unmap
from drivebay.disk.errors import IllegalBlock, ReadOnly
from drivebay.disk.formats.chain import Image
from drivebay.disk.formats.store import Store
from drivebay.disk.layers.presence import Run
from drivebay.suspend import Lock, run, together

__all__ = [
    "Presence",
    "SparseImage",
    "all_set",
    "first_overlap",
    "is_touched",
    "mapped_extents",
    "set_bits",
]

Presence = bool | tuple[bytearray, int]
"""Of a block: all of its sectors, none, or those whose bits are set, the first of them at this bit;
bit 0 of byte 0 is the first of all.
"""

MOST_PARTS = 1 << 16  # looked at for the extents of one call
WINDOW = 4096  # bits looked at together: numbers of more bits make each step dearer


class SparseImage(Image):
    """Blocks of a power of two of bytes, each somewhere in `store` or nowhere.

    A format says where a block lies, gives it a place, and commits what it has changed in its
    tables. It keeps those in memory until a flush, which orders them after the data they tell of:

        data, and places that read zero → flush → tables → flush

    So a power cut leaves tables that point to what they should, and at worst loses space.
    """

    unmap_behaviour = Unmap.ZEROES

    def __init__(
        self, store: Store, *, size: int, block_size: int, sector_size: int, read_only: bool
    ) -> None:
        super().__init__()
        self.store = store
        self.block_size = block_size
        self.sector_size = sector_size
        self.physical_sector_size = max(sector_size, store.disk.physical_sector_size)
        self.sector_count = size // sector_size
        self.read_only = read_only
        self.persistent = store.disk.persistent
        self.optimal_unmap_sectors = block_size // sector_size
        self._bytes = size
        self._shift = sector_size.bit_length() - 1
        self._block_shift = block_size.bit_length() - 1
        self._mask = block_size - 1
        self._differencing = False
        """What it does not hold shows a parent."""
        self._tracks = False
        """Tables say which sectors were written: `_load` and `_hold` belong to each write."""
        self._placing = Lock()
        self._committing = Lock()
        self._clean = True
        """Nothing is to be committed, nor is being."""
        self._ready = False
        """The image says that it is being written: see `_begin_changes`."""

    # -- for the format --------------------------------------------------------------------------

    def _locate(self, block: int) -> int:
        """Where in the store the block's data begin, or 0 if it has none."""
        raise NotImplementedError

    def _vacant(self, block: int) -> int:
        """How many blocks from this on are alike, as they have no place, or 1."""
        return 1

    def _presence(self, block: int) -> Presence | None:
        """Which sectors of the block a differencing image holds; None until `_load` has run."""
        raise NotImplementedError

    async def _load(self, block: int) -> None:
        """Have in memory what `_presence` and `_hold` need of the block."""
        raise NotImplementedError

    async def _allocate(self, block: int) -> int:
        """Give the block a place that reads zero, and return it."""
        raise NotImplementedError

    def _hold(self, block: int, first: int, count: int) -> None:
        """Note that a differencing image holds these sectors of the block, which has a place."""
        raise NotImplementedError

    async def _commit(self) -> None:
        """Make all that was changed in the tables stable, and the data before it."""
        raise NotImplementedError

    async def _begin_changes(self) -> None:
        """Called before the first change: what the format must note in the image then."""

    async def _end_changes(self) -> None:
        """Called when the disk is closed, after a flush: what `_begin_changes` noted may go."""

    async def _discard(self, block: int) -> bool:
        """Forget the whole block, if the format can say that it reads zero then."""
        return False

    def _zero_block(self, block: int) -> bool:
        """Make a block of a differencing image, none of it held, read zero, if the format can."""
        return False

    # -- reading ---------------------------------------------------------------------------------

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Fill `buffers`. What has no place reads zero."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << self._shift
        inside = offset & self._mask
        if (
            length
            and inside + length <= self.block_size
            and 0 <= offset <= self._bytes - length
            and (at := self._locate(offset >> self._block_shift))
        ):
            return self.store.read_into(at + inside, buffers)
        return self._read_slowly(sector, buffers, length)

    async def _read_slowly(self, sector: int, buffers: Buffers, length: int) -> None:
        self.check_range(sector, length >> self._shift)
        reads: list[Operation] = []
        done = 0
        for block, inside, size in self._parts(sector << self._shift, length):
            part = cut(buffers, done, done + size)
            done += size
            if at := self._locate(block):
                reads.append(self.store.read_into(at + inside, part))
            else:
                zero(part)
        if len(reads) == 1:
            await reads[0]
        else:
            await together(reads)

    def _parts(self, offset: int, length: int, wide: bool = True) -> Iterator[tuple[int, int, int]]:
        """The range cut at the blocks' edges: block, offset in it, bytes. A `wide` part is of as
        many blocks as are known not to have a place.
        """
        end = offset + length
        while offset < end:
            block, inside = offset >> self._block_shift, offset & self._mask
            count = self._vacant(block) if wide else 1
            size = min((count << self._block_shift) - inside, end - offset)
            yield block, inside, size
            offset += size

    def runs(self, sector: int, count: int) -> list[Run]:
        """All of it, or of a differencing image what it holds; none where that is not loaded."""
        if not self._differencing:
            return [(sector, count, True)]
        found: list[Run] = []
        for block, inside, size in self._parts(sector << self._shift, count << self._shift):
            held = self._presence(block)
            first = ((block << self._block_shift) + inside) >> self._shift
            if held is None:
                return []
            if isinstance(held, bool):
                _join(found, first, size >> self._shift, held)
            else:
                bits, start = held
                _join_bits(found, first, bits, start + (inside >> self._shift), size >> self._shift)
        return found

    async def find_runs(self, sector: int, count: int) -> list[Run]:
        """Load what is not loaded."""
        if not (found := self.runs(sector, count)):
            for block, _, _ in self._parts(sector << self._shift, count << self._shift):
                if self._presence(block) is None:
                    await self._load(block)
            found = self.runs(sector, count)
        return found

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """Places and holes, and where the disk below can tell, holes in places."""
        self.check_range(sector, count)
        found: list[Extent] = []
        parts = self._parts(sector << self._shift, count << self._shift)
        for block, inside, size in islice(parts, MOST_PARTS):
            first = ((block << self._block_shift) + inside) >> self._shift
            if at := self._locate(block):
                part = await mapped_extents(self, self.store, at + inside, first, size)
            else:
                part = [Extent(first, size >> self._shift, allocated=False, zero=True)]
            for extent in part:
                _join_extent(found, extent)
            if len(found) >= MOST_EXTENTS or sum(e.count for e in part) << self._shift < size:
                break
        return found

    # -- writing ---------------------------------------------------------------------------------

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write `buffers`, giving blocks a place where they have none."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << self._shift
        inside = offset & self._mask
        if (
            self._ready
            and length
            and inside + length <= self.block_size
            and 0 <= offset <= self._bytes - length
            and (self._clean or not fua)
            and (at := self._locate(offset >> self._block_shift))
            and (not self._tracks or self._holds(offset, length))
        ):
            return self.store.write(at + inside, buffers, fua)
        return self._write_slowly(sector, buffers, length, fua)

    def _holds(self, offset: int, length: int) -> bool:
        """Whether the tables know already that these sectors of one block are written."""
        held = self._presence(offset >> self._block_shift)
        if isinstance(held, tuple):
            bits, first = held
            return all_set(
                bits, first + ((offset & self._mask) >> self._shift), length >> self._shift
            )
        return held is True

    async def _write_slowly(
        self, sector: int, buffers: Buffers, length: int, fua: bool = False
    ) -> None:
        self._check_change(sector, length >> self._shift)
        await self._start()
        done = 0
        for block, inside, size in self._parts(sector << self._shift, length, wide=False):
            part = cut(buffers, done, done + size)
            done += size
            at = await self._place(block)
            if self._tracks:
                await self._load(block)
            await self.store.write(at + inside, part)
            if self._tracks:
                self._hold(block, inside >> self._shift, size >> self._shift)
        if fua:
            await self.flush()

    async def _place(self, block: int) -> int:
        if at := self._locate(block):
            return at
        async with self._placing:  # of two writers the second finds what the first was given
            return self._locate(block) or await self._allocate(block)

    async def _start(self) -> None:
        if not self._ready:
            async with self._placing:
                if not self._ready:
                    await self._begin_changes()
                    self._ready = True

    def _check_change(self, sector: int, count: int) -> None:
        if sector < 0 or sector + (count or 1) > self.sector_count:
            raise IllegalBlock(sector, count, self.sector_count)
        if self.read_only:
            raise ReadOnly(self.kind)

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Forget whole blocks, and make holes in others. A differencing image leaves alone what it
        does not hold.
        """
        self._check_change(sector, count)
        await self._start()
        for block, inside, size in self._parts(sector << self._shift, count << self._shift):
            if not (at := self._locate(block)):
                continue
            if self._is_whole(block, inside, size) and await self._discard(block):
                continue
            await self.store.write_zeroes(at + inside, size, unmap=True)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Zero what has a place; the rest reads zero, or is made to."""
        self._check_change(sector, count)
        await self._start()
        shows = self._differencing and not next_is_zero
        parts = self._parts(sector << self._shift, count << self._shift, wide=not shows)
        for block, inside, size in parts:
            at = self._locate(block)
            if at == 0 and shows and self._presence(block) is False:
                if self._is_whole(block, inside, size) and self._zero_block(block):
                    continue
                at = await self._place(block)
            if at:
                if shows:
                    await self._load(block)
                await self.store.write_zeroes(at + inside, size, unmap=unmap)
                if shows:
                    self._hold(block, inside >> self._shift, size >> self._shift)
        if fua:
            await self.flush()

    def _is_whole(self, block: int, inside: int, size: int) -> bool:
        start = block << self._block_shift
        return inside == 0 and size == min(self.block_size, self._bytes - start)

    # -- stability -------------------------------------------------------------------------------

    def flush(self) -> Operation:
        """Make completed writes stable, and the tables after them."""
        return self.store.flush() if self._clean else self._flush_all()

    async def _flush_all(self) -> None:
        async with self._committing:
            await self._commit()

    # -- the rest --------------------------------------------------------------------------------

    @property
    def inner(self) -> Sequence[Disk]:
        """The disk that the image lies on."""
        return (self.store.disk,)

    @property
    def allocated_bytes(self) -> int | None:
        """What the disk below holds for the image."""
        return self.store.disk.allocated_bytes

    def close(self) -> None:
        """Commit what a flush would, and close the disk below. Raises `DiskError` if that fails."""
        try:
            if self._ready:
                self._ready = False
                run(self._finish())
        finally:
            self.store.close()

    async def _finish(self) -> None:
        await self.flush()
        await self._end_changes()


# -- places ----------------------------------------------------------------------------------------


def first_overlap(places: Sequence[int], size: int) -> int | None:
    """The first of the sorted `places` of `size` bytes that the one before it reaches into."""
    for before, place in pairwise(places):
        if place - before < size:
            return place
    return None


def is_touched(places: Sequence[int], size: int, offset: int, length: int) -> bool:
    """Whether one of the sorted `places` of `size` bytes shares bytes with the range."""
    at = bisect_left(places, offset + length)
    return at > 0 and length > 0 and places[at - 1] + size > offset


async def mapped_extents(
    image: Disk, store: Store, offset: int, sector: int, size: int
) -> list[Extent]:
    """The extents of `size` bytes at `offset` of the store, as sectors of `image` from `sector` on.

    They may end early, but not before the first sector.
    """
    below, scale = store.disk, image.sector_size // store.disk.sector_size
    count = size // image.sector_size
    whole = [Extent(sector, count, allocated=True, zero=False)]
    if scale == 0 or offset % below.sector_size:
        return whole
    found: list[Extent] = []
    done = 0
    for extent in await below.extents(offset // below.sector_size, count * scale):
        end = (extent.sector + extent.count) - offset // below.sector_size
        run = end // scale - done
        if end % scale:  # holes end inside one of our sectors: say what is certain
            return found or whole
        found.append(Extent(sector + done, run, extent.allocated, extent.zero))
        done += run
    return found


def _join_extent(found: list[Extent], extent: Extent) -> None:
    if found and (found[-1].allocated, found[-1].zero) == (extent.allocated, extent.zero):
        last = found.pop()
        extent = Extent(last.sector, last.count + extent.count, extent.allocated, extent.zero)
    found.append(extent)


# -- bits ------------------------------------------------------------------------------------------


def _join(found: list[Run], sector: int, count: int, present: bool) -> None:
    if found and found[-1][2] == present:
        before, run, _ = found.pop()
        sector, count = before, run + count
    found.append((sector, count, present))


def _join_bits(found: list[Run], sector: int, bits: bytearray, first: int, count: int) -> None:
    """Add the runs of `count` bits from bit `first` on, which are sectors from `sector` on."""
    while count:
        size = min(count, WINDOW)
        number = _bits(bits, first, size)
        first, count = first + size, count - size
        while size:
            present = number & 1 == 1
            others = ~number if present else number
            same = min(size, (others & -others).bit_length() - 1 if others else size)
            _join(found, sector, same, present)
            number >>= same
            sector, size = sector + same, size - same


def _bits(bits: bytearray, first: int, count: int) -> int:
    number = int.from_bytes(bits[first >> 3 : (first + count + 7) >> 3], "little")
    return number >> (first & 7) & ((1 << count) - 1)


def all_set(bits: bytearray, first: int, count: int) -> bool:
    """Whether `count` bits from bit `first` on are all set."""
    return _bits(bits, first, count) == (1 << count) - 1


def set_bits(bits: bytearray, first: int, count: int) -> None:
    """Set `count` bits from bit `first` on."""
    start, stop = first >> 3, (first + count + 7) >> 3
    number = int.from_bytes(bits[start:stop], "little")
    number |= ((1 << count) - 1) << (first & 7)
    bits[start:stop] = number.to_bytes(stop - start, "little")
