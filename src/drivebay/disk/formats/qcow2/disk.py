"""A qcow2 image that is written.

Data go to their clusters at once, tables to the image when a flush or a full cache asks for it, in
an order that a power cut cannot harm:

    data and refcounts → flush → L2 and L1 tables → flush → clusters that nobody uses are free

So whatever the tables in the image point to is there and is counted, and the most that is ever lost
is space. What is freed is used again only when no operation is under way that began before.
"""

from __future__ import annotations

import struct
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import cut, zeroes
from drivebay.disk.contract import Buffers, Disk, Operation
from drivebay.disk.errors import DiskError, DiskOpenError, InvalidInput, ReadOnly
from drivebay.disk.formats.qcow2.header import MOST_L1_BYTES, Autoclear
from drivebay.disk.formats.qcow2.image import SECTOR_SHIFT, Qcow2Reader, read_table
from drivebay.disk.formats.qcow2.mapping import COMPRESSED, COPIED, ZERO, Kind
from drivebay.disk.formats.qcow2.pacing import Claims, Epoch
from drivebay.disk.formats.qcow2.refcounts import OFFSET, Refcounts, corrupt, rows
from drivebay.disk.formats.qcow2.slices import Codec
from drivebay.disk.formats.qcow2.snapshots import table_size
from drivebay.suspend import DONE, Lock, run

if TYPE_CHECKING:
    from drivebay.disk.formats.qcow2.slices import Slice

__all__ = ["Qcow2Disk"]

HEADER_SIZE: Final = 24  # size, crypt_method, l1_size and l1_table_offset
HEADER_AUTOCLEAR: Final = 88


class Qcow2Disk(Qcow2Reader):
    """The image in `disk`; with `snapshot` the internal snapshot of that name or id, read-only.

    An image in a disk that is read-only is read-only, too.

    Alone it reads zero where it holds nothing. An image with a `parent` belongs over it, in a
    `LayeredDisk` (`drivebay.disk.formats.chain` does that).

    Raises `DiskOpenError`; then `disk` is still open. Else it is closed with the image.
    """

    def __init__(self, disk: Disk, *, read_only: bool = False, snapshot: str = "") -> None:
        super().__init__(disk, snapshot=snapshot)
        self.read_only = read_only or disk.read_only or bool(snapshot)
        self._pending: list[tuple[int, int]] = []
        self._draining: list[Epoch] = []
        self._claims = Claims()
        self._committing = Lock()
        self._commits = self._committed = 0  # begun, and the last that succeeded
        self._size_at_open = self.store.size
        self._resizing = Lock()
        self._lost: DiskError | None = None
        if not self.read_only:
            try:
                run(self._begin())
            except DiskError as error:
                raise DiskOpenError(f"{self.name}: {error}") from error

    async def _begin(self) -> None:
        header, fields = self.header, self.header.fields
        features = header.incompatible
        if features.CORRUPT or features.DIRTY:
            what = "is marked as corrupt" if features.CORRUPT else "was not closed (dirty bit)"
            raise DiskOpenError(
                f"{self.name}: {what}", "qemu-img check -r all repairs it; or open it read-only"
            )
        if header.extended:
            raise DiskOpenError(
                f"{self.name}: has subclusters, which can only be read", "open it read-only"
            )
        clusters = fields.refcount_table_clusters << fields.cluster_bits
        table = await read_table(self.store, fields.refcount_table_offset, clusters // 8)
        self._refcounts = Refcounts(
            self.store, fields, table, self._flush_store, self._write_header
        )
        self._reserve(table)
        if fields.autoclear_features:
            await self._write_header(HEADER_AUTOCLEAR, bytes(Autoclear.size))

    def _reserve(self, table: array[int]) -> None:
        """Note where tables are. Raises `DiskOpenError` if two are in one place."""
        fields = self.header.fields
        places = [
            (0, self._cluster_size),
            (fields.refcount_table_offset, len(table) * 8),
            (fields.l1_table_offset, len(self.mapping.l1) * 8),
            (fields.snapshots_offset, table_size(self.snapshots)),
            *((shot.l1_table_offset, shot.l1_size * 8) for shot in self.snapshots),
            *((entry & OFFSET, self._cluster_size) for entry in self.mapping.l1 if entry & OFFSET),
        ]
        reserved = self._refcounts.reserved
        expected = sum(1 for entry in table if entry)
        for offset, length in places:
            clusters = range(offset >> self._cluster_bits, self._clusters(offset + length))
            if not length:
                continue
            reserved.update(clusters)
            expected += len(clusters)
        if len(reserved) != expected:
            raise DiskOpenError(
                f"{self.name}: is corrupt: tables overlap", "qemu-img check may repair it"
            )

    def _clusters(self, length: int) -> int:
        return -(-length >> self._cluster_bits)

    # -- writing ---------------------------------------------------------------------------------

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write `buffers`, giving clusters a place where they have none."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << SECTOR_SHIFT
        if (
            not (fua or self.read_only)
            and (at := self._place(offset, length))
            and self._is_data(at, length)
        ):
            operation = self.store.write(at, buffers)
            if operation is DONE:
                return DONE
            return self._guarded_write(operation, self._epoch, sector, buffers, length)
        return self._write_slowly(sector, buffers, length, fua)

    def _is_data(self, at: int, length: int) -> bool:
        """Whether no table is there."""
        first, last = at >> self._cluster_bits, at + length - 1 >> self._cluster_bits
        reserved = self._refcounts.reserved
        return first not in reserved and (
            first == last or reserved.isdisjoint(range(first, last + 1))
        )

    async def _guarded_write(
        self, operation: Operation, epoch: Epoch, sector: int, buffers: Buffers, length: int
    ) -> None:
        if epoch is not self._epoch:
            operation.close()
            await self._write_slowly(sector, buffers, length)
            return
        with epoch:
            await operation

    async def _write_slowly(
        self, sector: int, buffers: Buffers, length: int, fua: bool = False
    ) -> None:
        self._refuse(sector, length >> SECTOR_SHIFT)
        offset, done = sector << SECTOR_SHIFT, 0
        while done < length:
            at = offset + done
            number = at >> self._span_bits
            size = min(length - done, ((number + 1) << self._span_bits) - at)
            with self._epoch:
                found = self.mapping.find(number) or await self.mapping.load(number)
                host, size = self._row(found, at, size)
                part = cut(buffers, done, done + size)
                if host:
                    await self.store.write(host, part)
                else:
                    size = await self._write_new(at, part, size)
            done += size
        if fua:
            await self.flush()

    def _row(self, found: Slice, offset: int, length: int) -> tuple[int, int]:
        """Where the bytes at `offset` may be written in place, or 0; and for how many bytes of
        `length` the same is so.
        """
        bits, mask = self._cluster_bits, self.mapping.slice_mask
        numbers = found.numbers
        first = offset >> bits
        host = self._own_place(numbers[first & mask])
        stop = (first + 1) << bits
        while stop < offset + length:
            place = self._own_place(numbers[stop >> bits & mask])
            if place != (host + stop - (first << bits) if host else 0):
                break
            stop += 1 << bits
        return host and host + (offset & self._cluster_size - 1), min(stop - offset, length)

    def _own_place(self, entry: int) -> int:
        """Where the cluster of an entry may be written, or 0 if it needs a new place."""
        if entry & self._in_place != COPIED:
            return 0
        host = entry & OFFSET
        if host >= self.store.size or host >> self._cluster_bits in self._refcounts.reserved:
            raise corrupt(f"a cluster at {host:#x}")
        return host

    async def _write_new(self, offset: int, buffers: Buffers, length: int) -> int:
        """Give clusters a place, as many as there are in a row, and write them.

        Returns how many bytes that were; 0 if others have given them a place meanwhile.
        """
        await self._make_room()
        bits = self._cluster_bits
        first, last = offset >> bits, offset + length - 1 >> bits
        number = offset >> self._span_bits
        async with self._claims.of(first, last):
            found = await self.mapping.own(number, self._refcounts, self._free_table)
            self._refuse(offset >> SECTOR_SHIFT, length >> SECTOR_SHIFT)  # a resize may have come
            host, same = self._row(found, offset, length)
            if host or same < length:  # somebody gave them a place meanwhile
                return 0
            cluster, count, fresh = await self._refcounts.allocate(last - first + 1)
            self._limit = self.store.size
            length = min(length, (first + count << bits) - offset)
            try:
                data, skipped = await self._filled(offset, cut(buffers, 0, length), length, fresh)
                await self.store.write((cluster << bits) + skipped, data)
                found = await self.mapping.load(number)
            except BaseException:
                await self._refcounts.release(cluster, count)
                raise
            for place in range(count):
                self._point(found, number, first + place, (cluster + place) << bits | COPIED)
        return length

    async def _filled(
        self, offset: int, buffers: Buffers, length: int, fresh: bool
    ) -> tuple[Buffers, int]:
        """`buffers` with what a cluster holds before and after them, and where in it they begin."""
        mask = self._cluster_size - 1
        head, tail = offset & mask, -(offset + length) & mask
        before = await self._old(offset - head, head)
        after = await self._old(offset + length, tail)
        if fresh and before is after is None:
            return buffers, head
        return [*(before or zeroes(head)), *buffers, *(after or zeroes(tail))], 0

    async def _old(self, offset: int, length: int) -> list[memoryview] | None:
        """What is to be kept of a cluster that gets a new place; None if it is all zeroes."""
        there = min(length, self._bytes - offset)
        if there <= 0:
            return None
        found = await self.mapping.load(offset >> self._span_bits)
        empty = [Kind.ZEROES] if self._read_below else [Kind.ZEROES, Kind.ABSENT]
        if all(part.kind in empty for part in self.mapping.parts(found, offset, there)):
            return None
        data = memoryview(bytearray(length))
        await self._read_parts(offset, [data[:there]], there, self._read_below)
        return [data]

    def _point(self, found: Slice, number: int, cluster: int, entry: int) -> None:
        """Change the entry of a guest cluster; what it used is free after the next commit."""
        index = cluster & self.mapping.slice_mask
        first, count = self.mapping.clusters_of(found.numbers[index])
        found.numbers[index] = entry
        self.mapping.cache.change(number, found)
        if count:
            self._pending.append((first, count))

    def _free_table(self, cluster: int) -> None:
        self._refcounts.reserved.discard(cluster)
        self._pending.append((cluster, 1))

    async def _make_room(self) -> None:
        if self.mapping.cache.crowded:
            await self.flush()

    # -- zeroes ----------------------------------------------------------------------------------

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Give whole clusters back, and make holes in others."""
        self._refuse(sector, count)
        await self._zero(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, next_is_zero, unmap=True)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Zero what is there, or with `unmap` give it back; the rest reads zero, or is made to."""
        self._refuse(sector, count)
        await self._zero(sector << SECTOR_SHIFT, count << SECTOR_SHIFT, next_is_zero, unmap)
        if fua:
            await self.flush()

    async def _zero(self, offset: int, length: int, next_is_zero: bool, unmap: bool) -> None:
        end, bits = offset + length, self._cluster_bits
        if self.header.fields.version > 2:
            # Below a disk that has grown is zero only until it is opened again.
            next_is_zero = self._read_below is None
        flags = self.header.fields.version > 2 or next_is_zero
        while offset < end:
            number = offset >> self._span_bits
            same = min(self.mapping.same_until(number) << self._span_bits, end)
            found = self.mapping.find(number) or await self.mapping.load(number)
            if next_is_zero and not found.offset:
                offset = same
                continue
            stop = min((number + 1) << self._span_bits, end)
            first = self._clusters(offset)
            last = self._clusters(stop) if stop == self._bytes else stop >> bits
            if flags and first << bits == offset and first < last:
                await self._zero_clusters(number, first, last, next_is_zero, unmap)
                offset = min(last << bits, stop)
            else:
                stop = min(first << bits, stop) if flags and first << bits > offset else stop
                await self._zero_bytes(offset, stop - offset, next_is_zero, unmap)
                offset = stop

    async def _zero_clusters(
        self, number: int, first: int, last: int, next_is_zero: bool, unmap: bool
    ) -> None:
        """Let the entries of whole clusters say that they are zero."""
        await self._make_room()
        entry = 0 if next_is_zero else ZERO
        mask = self.mapping.slice_mask
        with self._epoch:
            async with self._claims.of(first, last - 1):
                found = await self.mapping.load(number)
                changing = []
                for cluster in range(first, last):
                    old = found.numbers[cluster & mask]
                    if old == entry or (not unmap and old & ZERO and not old & COMPRESSED):
                        continue
                    if not unmap and (host := self._own_place(old)):
                        await self.store.write_zeroes(host, self._cluster_size)
                    else:
                        changing.append(cluster)
                if changing:
                    found = await self.mapping.own(number, self._refcounts, self._free_table)
                    for cluster in changing:
                        self._point(found, number, cluster, entry)

    async def _zero_bytes(self, offset: int, length: int, next_is_zero: bool, unmap: bool) -> None:
        """Zero parts of clusters, and whole ones whose entries cannot say it (version 2)."""
        found = await self.mapping.load(offset >> self._span_bits)
        with self._epoch:
            for start, size, kind, _ in self.mapping.parts(found, offset, length):
                if kind is Kind.ZEROES or (kind is Kind.ABSENT and next_is_zero):
                    continue
                done = 0
                while done < size:
                    host, same = self._row(found, start + done, size - done)
                    if not host:
                        await self._write_slowly(start + done >> SECTOR_SHIFT, zeroes(same), same)
                    else:
                        await self.store.write_zeroes(host, same, unmap)
                    done += same

    # -- stability -------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Make completed writes stable, and the tables after them.

        Once the disk below has lost something this fails until the image is opened again: what the
        tables in memory point to may not be there.
        """
        if self.read_only:
            return
        begun = self._commits
        async with self._committing:
            if self._committed <= begun:  # else another one began later than this, and did it all
                await self._commit()

    async def _commit(self) -> None:
        self._commits = number = self._commits + 1
        if self._lost is not None:
            raise self._lost
        epoch, self._epoch = self._epoch, Epoch()
        self._draining.append(epoch)
        freed, self._pending = self._pending, []
        changes = self.mapping.take()
        try:
            await self._refcounts.write_out()
            if any(changes):
                await self._flush_store()
                await self.mapping.write(changes)
            await self._flush_store()
        except BaseException:
            self.mapping.failed(changes)
            self._pending = freed + self._pending
            raise
        self.mapping.written(changes)
        self._committed = number
        epoch.freed = freed
        await self._reclaim()

    async def _reclaim(self) -> None:
        """Free what nothing uses any more, neither in the image nor under way."""
        while self._draining and not self._draining[0].active:
            freed = self._draining.pop(0).freed
            self._generation += bool(freed)
            for first, count in rows(freed):
                with suppress(DiskError):  # then they stay counted, which harms nobody
                    await self._refcounts.release(first, count)

    async def _flush_store(self) -> None:
        try:
            await self.store.flush()
        except DiskError as error:
            self._lost = error
            raise

    async def _write_header(self, offset: int, data: bytes) -> None:
        """Change the header, and make that stable."""
        try:
            await self.store.write(offset, [memoryview(data)])
            await self.store.flush()
        except DiskError as error:  # nobody knows which of the two is there now
            self._lost = error
            raise

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Change the size of the disk; the clusters that are cut off are free."""
        size, fields = sector_count << SECTOR_SHIFT, self.header.fields
        if self.read_only:
            raise ReadOnly(self.kind)
        if not 0 < size < 1 << 63:
            raise InvalidInput(f"{self.name}: cannot have {sector_count} sectors")
        if fields.version == 2 and (self.snapshots or self._read_below):
            raise InvalidInput(
                f"{self.name}: version 2 with snapshots or a backing file cannot be resized"
            )
        async with self._resizing:
            before = self._bytes
            try:
                if size < before:
                    self._set_size(size)
                    first, last = self._clusters(size), self._clusters(before)
                    if first < last:
                        cut_off = first << self._cluster_bits, last - first << self._cluster_bits
                        await self._zero(*cut_off, next_is_zero=True, unmap=True)
                        await self.flush()
                else:
                    await self._grow_l1(size)
                    self._set_size(size)
                    await self._zero_grown(before, size)
                await self._write_size(size)
            except BaseException:
                self._set_size(before)
                raise
        self._resized()

    async def _zero_grown(self, before: int, size: int) -> None:
        """Hide what is left in the last cluster, and what lies below."""
        below = self._read_below is not None
        end = size if below else min(self._clusters(before) << self._cluster_bits, size)
        if before < end:
            await self._zero(before, end - before, next_is_zero=not below, unmap=False)
            await self.flush()

    async def _write_size(self, size: int) -> None:
        l1_size, l1_offset = len(self.mapping.l1), self.mapping.l1_offset
        await self._write_header(HEADER_SIZE, struct.pack(">QIIQ", size, 0, l1_size, l1_offset))

    async def _grow_l1(self, size: int) -> None:
        """See that the L1 table is long enough for a disk of `size` bytes."""
        mapping = self.mapping
        entries = -(-size >> self._cluster_bits + mapping.l2_bits)
        if entries <= len(mapping.l1):
            return
        if entries * 8 > MOST_L1_BYTES:
            raise InvalidInput(f"{self.name}: {size} bytes need larger clusters")
        old_first = mapping.l1_offset >> self._cluster_bits
        old_count = self._clusters(len(mapping.l1) * 8)
        count = self._clusters(entries * 8)
        first = await self._refcounts.allocate_in_row(count)
        try:
            async with mapping.making, self._committing:
                await self._commit()
                l1 = array("Q", mapping.l1)
                l1.extend(array("Q", bytes((entries - len(l1)) * 8)))
                offset = first << self._cluster_bits
                await self.store.write(offset, [memoryview(Codec(64).encode(l1))])
                await self._flush_store()
                mapping.move(l1, offset)
                await self._write_size(self._bytes)
        except BaseException:
            if self._lost is None:
                await self._refcounts.release(first, count)
            raise
        self._refcounts.reserved.update(range(first, first + count))
        self._refcounts.reserved.difference_update(range(old_first, old_first + old_count))
        await self._refcounts.release(old_first, old_count)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what a flush would, and close the disk below. Raises `DiskError` if that fails."""
        try:
            # An operation that nobody drives any more may hold the lock: then all is as if the
            # power had gone.
            if not (self.read_only or self._committing.held or self._lost):
                run(self._finish())
        finally:
            self.store.close()

    async def _finish(self) -> None:
        while self.mapping.dirty or self._pending or self._refcounts.dirty:
            await self.flush()
        if self._refcounts.end < self.store.size and self.store.size > self._size_at_open:
            size = max(self._refcounts.end, self._size_at_open)
            with suppress(DiskError):
                await self.store.disk.resize(-(-size // self.store.disk.sector_size))
