"""Who uses which cluster of an image (qcow2.txt, "Host cluster management"), and new clusters.

What is here is ahead of the image: a cluster is taken at once and counted in the image by
`write_out`, before anything there points to it. One is given back when nothing in the image points
to it any more. So a power cut may leave a cluster counted that nobody uses, and never the other way
round.
"""

from __future__ import annotations

import errno
import struct
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskError, InvalidInput, IoError, NoSpace
from drivebay.disk.formats.qcow2.header import MOST_REFCOUNT_TABLE
from drivebay.disk.formats.qcow2.slices import SLICE, Codec, Slice, SliceCache
from drivebay.suspend import Lock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from drivebay.disk.formats.qcow2.header import Header
    from drivebay.disk.formats.store import Store

__all__ = ["OFFSET", "REFCOUNT_TABLE", "Refcounts", "corrupt", "rows"]

OFFSET: Final = ((1 << 56) - 1) & ~511
"""The bits of an entry that are an offset in the image."""
BLOCK_OFFSET: Final = ((1 << 64) - 1) & ~511
REFCOUNT_TABLE: Final = 48  # refcount_table_offset and refcount_table_clusters in the header
GROWTH: Final = 1 << 20
MOST_GROWTH: Final = 1 << 30
CACHED: Final = 8 << 20  # bytes


def corrupt(what: str) -> DiskError:
    """The error for an image that contradicts itself."""
    return IoError(errno.EUCLEAN, f"qcow2: {what}")


class Refcounts:
    """The refcounts of the image in `store`, whose table in memory is `table`.

    `flush` makes the store stable, `write_header` changes the header and makes that stable.
    `reserved` has the clusters that are known to hold tables: whatever the image says of them, they
    are never given to anybody.
    """

    def __init__(
        self,
        store: Store,
        header: Header,
        table: array[int],
        flush: Callable[[], Awaitable[None]],
        write_header: Callable[[int, bytes], Awaitable[None]],
    ) -> None:
        self.store = store
        self._flush, self._write_header = flush, write_header
        self._cluster_bits = header.cluster_bits
        self._cluster_size = 1 << header.cluster_bits
        self._order = header.refcount_order
        self._block_bits = header.cluster_bits + 3 - header.refcount_order
        size = min(SLICE, self._cluster_size)
        self._slice_bits = (size.bit_length() - 1) + 3 - header.refcount_order
        self._slices = SliceCache(store, Codec(1 << self._order), size, CACHED // SLICE)
        self._full = array(self._slices.codec.type, [1]) * (1 << self._slice_bits)
        self._table = table
        self._table_offset = header.refcount_table_offset
        self._table_dirty: set[int] = set()
        self._next = 0
        self._untouched = -(-store.size >> header.cluster_bits)
        self.lock = Lock()
        self.reserved: set[int] = {entry >> header.cluster_bits for entry in table if entry}

    @property
    def dirty(self) -> bool:
        """The image lags behind."""
        return self._slices.dirty or bool(self._table_dirty)

    @property
    def end(self) -> int:
        """Bytes of the store up to the last cluster that was ever used."""
        return self._untouched << self._cluster_bits

    # -- taking clusters -------------------------------------------------------------------------

    async def allocate(self, most: int) -> tuple[int, int, bool]:
        """Take from 1 to `most` free clusters in a row.

        Returns the first one's number, how many they are, and whether they read zero. Raises
        `NoSpace` where the store cannot grow.
        """
        async with self.lock:
            return await self._allocate(most)

    async def _allocate(self, most: int) -> tuple[int, int, bool]:
        while True:
            found = await self._slice(self._next)
            low = self._next & (1 << self._slice_bits) - 1
            if found is None:
                await self._add_block()
                continue
            numbers = found.numbers
            if numbers == self._full:
                self._next += len(numbers) - low
                continue
            try:
                low = numbers.index(0, low)
            except ValueError:
                self._next += len(numbers) - low
                continue
            first = self._next = (self._next >> self._slice_bits << self._slice_bits) + low
            count = 0
            while count < most and low + count < len(numbers) and numbers[low + count] == 0:
                count += 1
            await self._check_free(first, count)
            fresh = await self._extend(first, count)
            for place in range(low, low + count):
                numbers[place] = 1
            self._slices.change(first >> self._slice_bits, found)
            self._next = first + count
            return first, count, fresh

    async def allocate_in_row(self, count: int) -> int:
        """Take `count` clusters in a row, for a table; returns the first one's number."""
        async with self.lock:
            return await self._append(count)

    async def _append(self, count: int) -> int:
        """Take clusters in a row past all others, and before them the refcount blocks they need."""
        start, blocks = self._untouched, 0
        while True:
            last = start + blocks + count - 1 >> self._block_bits
            if last >= len(self._table):
                await self._grow_table(count)
                start, blocks = self._untouched, 0
                continue
            missing = [
                block
                for block in range(start >> self._block_bits, last + 1)
                if not self._table[block]
            ]
            if len(missing) == blocks:
                break
            blocks = len(missing)
        await self._extend(start, blocks + count)
        for cluster, block in enumerate(missing, start):
            self._link_block(block, cluster)
        for cluster in range(start, start + blocks + count):
            await self._set(cluster, 1)
        return start + blocks

    async def _check_free(self, first: int, count: int) -> None:
        if not self.reserved.isdisjoint(range(first, first + count)):
            raise corrupt(f"a table in clusters {first}+{count} is counted as free")

    async def _extend(self, first: int, count: int) -> bool:
        """See that the store reaches that far; whether the clusters read zero."""
        end = first + count
        size = end << self._cluster_bits
        if size > self.store.size:
            roomy = self.store.size + min(max(GROWTH, self.store.size // 8), MOST_GROWTH)
            with suppress(DiskError):
                await self.store.grow(max(size, roomy))
            try:
                await self.store.grow(size)
            except InvalidInput as error:
                raise NoSpace(errno.ENOSPC, "qcow2: grow") from error
        fresh = first >= self._untouched
        self._untouched = max(self._untouched, end)
        return fresh

    async def _add_block(self) -> None:
        """Make the refcount block of the next cluster, in that cluster, which nobody can use."""
        block = self._next >> self._block_bits
        if block >= len(self._table):
            await self._grow_table()
            return
        await self._check_free(self._next, 1)
        if not await self._extend(self._next, 1):
            await self.store.write_zeroes(self._next << self._cluster_bits, self._cluster_size)
        self._link_block(block, self._next)
        await self._set(self._next, 1)
        self._next += 1

    def _link_block(self, block: int, cluster: int) -> None:
        self.reserved.add(cluster)
        offset = cluster << self._cluster_bits
        self._table[block] = offset
        self._table_dirty.add(block)
        slices = 1 << self._block_bits - self._slice_bits
        for within in range(slices):  # all zeroes: to read them could fail
            self._slices.add(block * slices + within, offset + within * self._slices.size)

    async def _grow_table(self, count: int = 0) -> None:
        """Put a larger table behind everything that leaves room for `count` clusters more, and make
        the header point to it.
        """
        length, old_first = len(self._table), self._table_offset >> self._cluster_bits
        old_clusters = length * 8 >> self._cluster_bits
        clusters, per_cluster = 2 * old_clusters, self._cluster_size >> 3
        while True:
            covered = clusters * per_cluster << self._block_bits
            needed = self._untouched + clusters + count + 2
            if covered >= needed + (needed - self._untouched >> self._block_bits):
                break
            clusters *= 2
        if clusters << self._cluster_bits > MOST_REFCOUNT_TABLE:
            raise NoSpace(errno.ENOSPC, "qcow2: the refcount table")
        self._table.extend(array("Q", bytes(clusters * self._cluster_size - length * 8)))
        try:
            first = await self._append(clusters)
            await self._write_slices()
            offset = first << self._cluster_bits
            await self.store.write(offset, [memoryview(Codec(64).encode(self._table))])
            await self._flush()
            await self._write_header(REFCOUNT_TABLE, struct.pack(">QI", offset, clusters))
        except BaseException:
            del self._table[length:]
            self._table_dirty = {block for block in self._table_dirty if block < length}
            self._slices.forget(length << self._block_bits - self._slice_bits)
            raise
        self._table_offset = offset
        self._table_dirty.clear()
        self.reserved.update(range(first, first + clusters))
        self.reserved.difference_update(range(old_first, old_first + old_clusters))
        await self._release(old_first, old_clusters)

    # -- giving them back ------------------------------------------------------------------------

    async def release(self, first: int, count: int) -> None:
        """Count the clusters once less; those that nobody uses any more are holes, then free."""
        async with self.lock:
            await self._release(first, count)

    async def _release(self, first: int, count: int) -> None:
        end = first + count
        while first < end:
            stop = min((first >> self._slice_bits) + 1 << self._slice_bits, end)
            if found := await self._slice(first):
                free = self._decrease(found, first, stop)
                for start, length in free:
                    with suppress(DiskError):  # the space below is not given back, nothing else
                        await self.store.discard(
                            start << self._cluster_bits, length << self._cluster_bits
                        )
                if free:
                    self._clear(await self._here(first), free)
            first = stop

    def _decrease(self, found: Slice, first: int, stop: int) -> list[tuple[int, int]]:
        """Count clusters of one slice once less, but for those whose count is 1; these are
        returned, as rows. What is not counted at all, or a table, is left alone: the image was
        corrupt.
        """
        low = first & (1 << self._slice_bits) - 1
        numbers = found.numbers
        if numbers[low : low + stop - first] == self._full[: stop - first] and (
            self.reserved.isdisjoint(range(first, stop))
        ):
            return [(first, stop - first)]
        free = []
        for cluster in range(first, stop):
            number = numbers[low + cluster - first]
            if cluster in self.reserved or not number:
                continue
            if number == 1:
                free.append((cluster, 1))
            else:
                numbers[low + cluster - first] = number - 1
                self._slices.change(first >> self._slice_bits, found)
        return list(rows(free))

    def _clear(self, found: Slice, free: list[tuple[int, int]]) -> None:
        for start, length in free:
            low = start & (1 << self._slice_bits) - 1
            found.numbers[low : low + length] = array(found.numbers.typecode, [0]) * length
            self._slices.change(start >> self._slice_bits, found)
            self._next = min(self._next, start)

    # -- counts ----------------------------------------------------------------------------------

    async def _here(self, cluster: int) -> Slice:
        found = await self._slice(cluster)
        assert found is not None, "a refcount in a block that there is not"
        return found

    async def _set(self, cluster: int, count: int) -> None:
        found = await self._here(cluster)
        found.numbers[cluster & (1 << self._slice_bits) - 1] = count
        self._slices.change(cluster >> self._slice_bits, found)

    async def _slice(self, cluster: int) -> Slice | None:
        number = cluster >> self._slice_bits
        while not (found := self._slices.get(number)):
            block = cluster >> self._block_bits
            offset = self._table[block] & BLOCK_OFFSET if block < len(self._table) else 0
            if not offset:
                return None
            if offset & self._cluster_size - 1 or offset >= self.store.size:
                raise corrupt(f"a refcount block at {offset:#x}")
            within = number & (1 << self._block_bits - self._slice_bits) - 1
            await self._slices.load(number, offset + within * self._slices.size)
        return found

    # -- writing them ----------------------------------------------------------------------------

    async def write_out(self) -> None:
        """Write what has changed; it is stable after the next flush of the store."""
        async with self.lock:
            await self._write_slices()
            if not self._table_dirty:
                return
            await self._flush()  # a block must be there before the table says so
            taken, self._table_dirty = self._table_dirty, set()
            try:
                for entry in taken:
                    data = struct.pack(">Q", self._table[entry])
                    await self.store.write(self._table_offset + entry * 8, [memoryview(data)])
            except BaseException:
                self._table_dirty |= taken
                raise

    async def _write_slices(self) -> None:
        taken = self._slices.take()
        try:
            for offset, data in taken.values():
                await self.store.write(offset, [memoryview(data)])
        except BaseException:
            self._slices.failed(taken)
            raise
        self._slices.written(taken)


def rows(clusters: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Rows of clusters, each a first number and a length, sorted, and joined where they adjoin."""
    start = stop = 0
    for first, count in sorted(clusters):
        if first != stop:
            if start != stop:
                yield start, stop - start
            start = first
        stop = first + count
    if start != stop:
        yield start, stop - start
