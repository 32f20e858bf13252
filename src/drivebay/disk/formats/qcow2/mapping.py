"""Which host cluster holds which guest cluster: L1 and L2 tables (qcow2.txt, "Cluster mapping")."""

from __future__ import annotations

import enum
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.disk.formats.qcow2.compression import place
from drivebay.disk.formats.qcow2.refcounts import OFFSET, Refcounts, corrupt
from drivebay.disk.formats.qcow2.slices import SLICE, Codec, Slice, SliceCache
from drivebay.suspend import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

    from drivebay.disk.formats.qcow2.header import ImageHeader
    from drivebay.disk.formats.store import Store

__all__ = ["COMPRESSED", "COPIED", "IN_PLACE", "ZERO", "Changes", "Kind", "Mapping", "Part"]

COPIED: Final = 1 << 63
"""The cluster is used once, and may be written where it is."""
COMPRESSED: Final = 1 << 62
ZERO: Final = 1
IN_PLACE: Final = COPIED | COMPRESSED
"""Of these bits, and those below a cluster's alignment, a standard cluster that may be written
where it is has `COPIED` alone.
"""
CACHED: Final = 32 << 20  # bytes: all L2 tables of a disk of 256 GiB in clusters of 64 KiB
L1_CHUNK: Final = 64  # entries written together: a sector
SUBCLUSTERS: Final = 32


class Kind(enum.Enum):
    """What an L2 entry says of a cluster."""

    ABSENT = enum.auto()
    """What lies below shows."""
    ZEROES = enum.auto()
    DATA = enum.auto()
    PACKED = enum.auto()
    """Compressed."""


class Part(NamedTuple):
    """Bytes of the disk that are alike."""

    offset: int
    length: int
    kind: Kind
    host: int
    """Of data, where they are; of zeroes, a place kept for them, or 0; of a compressed cluster, the
    L2 entry.
    """


class Changes(NamedTuple):
    """What of the tables is to be written, as it was when it was taken."""

    slices: dict[int, tuple[int, bytes]]
    l1: dict[int, bytes]


class Mapping:
    """The tables of the image in `store` that begin with the L1 table `l1` at `l1_offset`.

    Guest clusters come in slices of L2 tables, numbered from the start of the disk.
    """

    def __init__(self, store: Store, header: ImageHeader, l1: array[int], l1_offset: int) -> None:
        bits = header.fields.cluster_bits
        self.store, self.l1, self.l1_offset = store, l1, l1_offset
        self.cluster_bits, self.cluster_size = bits, 1 << bits
        self._version, self._extended = header.fields.version, header.extended
        size = min(SLICE, self.cluster_size)
        self.slice_bits = size.bit_length() - 1 - (4 if self._extended else 3)
        self.slice_mask = (1 << self.slice_bits) - 1
        self.span_bits = bits + self.slice_bits
        self.l2_bits = bits - (4 if self._extended else 3)
        self._unit_bits = bits - 5 if self._extended else bits
        self.cache = SliceCache(store, Codec(64), size, CACHED // SLICE)
        self._nothing = Slice(0, array("Q", bytes(size)))
        self._l1_dirty: set[int] = set()
        self.making = Lock()
        """Held by who changes the L1 table."""

    @property
    def dirty(self) -> bool:
        """The image lags behind."""
        return self.cache.dirty or bool(self._l1_dirty)

    # -- looking up ------------------------------------------------------------------------------

    def find(self, number: int) -> Slice | None:
        """Slice `number`, if it is in memory; one without an L2 table is, and has no offset."""
        if found := self.cache.get(number):
            return found
        table = number >> self.l2_bits - self.slice_bits
        return None if self.l1[table] & OFFSET else self._nothing

    async def load(self, number: int) -> Slice:
        """Slice `number`. Raises `DiskError`."""
        while not (found := self.find(number)):
            within = number & (1 << self.l2_bits - self.slice_bits) - 1
            offset = self._table_at(number >> self.l2_bits - self.slice_bits)
            if offset:
                await self.cache.load(number, offset + within * self.cache.size)
        return found

    def _table_at(self, table: int) -> int:
        offset = self.l1[table] & OFFSET
        if offset & self.cluster_size - 1 or offset >= self.store.size:
            raise corrupt(f"an L2 table at {offset:#x}")
        return offset

    def same_until(self, number: int) -> int:
        """The next slice after `number`, or where there is no L2 table, the next one that has."""
        bits = self.l2_bits - self.slice_bits
        table = number >> bits
        if self.l1[table] & OFFSET:
            return number + 1
        while table < len(self.l1) and not self.l1[table] & OFFSET:
            table += 1
        return table << bits

    def parts(self, found: Slice, offset: int, length: int) -> list[Part]:
        """What the entries of slice `found` say of bytes of the disk that lie in it.

        Raises `DiskError` for an entry that makes no sense.
        """
        if found is self._nothing:
            return [Part(offset, length, Kind.ABSENT, 0)]
        parts: list[Part] = []
        end, unit = offset + length, self._unit_bits
        while offset < end:
            stop = min(((offset >> unit) + 1) << unit, end)
            kind, host = self._decode(found.numbers, offset)
            size = stop - offset
            if parts:
                start, before, last, at = parts[-1]
                moved = before if kind is Kind.DATA else 0
                if last is kind and at + moved == host and kind is not Kind.PACKED:
                    parts[-1] = Part(start, before + size, kind, at)
                    offset = stop
                    continue
            parts.append(Part(offset, size, kind, host))
            offset = stop
        return parts

    def _decode(self, numbers: array[int], offset: int) -> tuple[Kind, int]:
        index = offset >> self.cluster_bits & self.slice_mask
        entry = numbers[2 * index if self._extended else index]
        if entry == 0 and not self._extended:
            return Kind.ABSENT, 0
        if entry & COMPRESSED:
            return Kind.PACKED, entry
        host = entry & OFFSET
        if host & self.cluster_size - 1 or host >= self.store.size:
            raise corrupt(f"a cluster at {host:#x}")
        if self._extended:
            sub = offset >> self._unit_bits & SUBCLUSTERS - 1
            flags = numbers[2 * index + 1] >> sub
            zero, allocated = flags >> SUBCLUSTERS & 1, flags & 1
        else:
            zero, allocated = entry & ZERO, host != 0
        if zero:
            if self._version == 2:
                raise corrupt("a zero cluster in version 2")
            return Kind.ZEROES, host
        if not allocated and self._extended:
            return Kind.ABSENT, 0
        if not host:
            raise corrupt(f"an L2 entry {entry:#x}")
        return Kind.DATA, host + (offset & self.cluster_size - 1)

    def clusters_of(self, entry: int) -> tuple[int, int]:
        """The first host cluster that an L2 entry uses, and how many."""
        if entry & COMPRESSED:
            offset, length = place(entry, self.cluster_bits)
            first = offset >> self.cluster_bits
            return first, (offset + length - 1 >> self.cluster_bits) - first + 1
        host = entry & OFFSET
        return host >> self.cluster_bits, int(host != 0)

    # -- changing --------------------------------------------------------------------------------

    async def own(self, number: int, refcounts: Refcounts, free: Callable[[int], None]) -> Slice:
        """Slice `number` in an L2 table that may be written, which is made if it is missing or
        shared with a snapshot; `free` is told the cluster of one that it takes the place of.
        """
        table = number >> self.l2_bits - self.slice_bits
        if not self.l1[table] & COPIED:
            async with self.making:
                if not self.l1[table] & COPIED:
                    await self._make_table(table, refcounts, free)
        return await self.load(number)

    async def _make_table(
        self, table: int, refcounts: Refcounts, free: Callable[[int], None]
    ) -> None:
        old = self._table_at(table)
        cluster, _, fresh = await refcounts.allocate(1)
        offset = cluster << self.cluster_bits
        try:
            if old:
                data = await self.store.read(old, self.cluster_size)
                await self.store.write(offset, [memoryview(data)])
            elif not fresh:
                await self.store.write_zeroes(offset, self.cluster_size)
        except BaseException:
            await refcounts.release(cluster, 1)
            raise
        refcounts.reserved.add(cluster)
        if old:
            free(old >> self.cluster_bits)
            first = table << self.l2_bits - self.slice_bits
            for within in range(1 << self.l2_bits - self.slice_bits):
                if found := self.cache.get(first + within):
                    found.offset = offset + within * self.cache.size
            self.cache.moved()
        self.l1[table] = offset | COPIED
        self._l1_dirty.add(table)

    def move(self, l1: array[int], l1_offset: int) -> None:
        """The L1 table is now `l1`, which has been written at `l1_offset`."""
        self.l1, self.l1_offset = l1, l1_offset

    # -- writing them ----------------------------------------------------------------------------

    def take(self) -> Changes:
        """All that has changed, as it is now."""
        chunks = {entry // L1_CHUNK for entry in self._l1_dirty}
        self._l1_dirty = set()
        codec = self.cache.codec
        return Changes(
            self.cache.take(),
            {chunk: codec.encode(self.l1[chunk * L1_CHUNK :][:L1_CHUNK]) for chunk in chunks},
        )

    async def write(self, changes: Changes) -> None:
        """Write what was taken."""
        for offset, data in changes.slices.values():
            await self.store.write(offset, [memoryview(data)])
        for chunk, data in changes.l1.items():
            await self.store.write(self.l1_offset + chunk * L1_CHUNK * 8, [memoryview(data)])

    def written(self, changes: Changes) -> None:
        """What was taken is in the image."""
        self.cache.written(changes.slices)

    def failed(self, changes: Changes) -> None:
        """What was taken may not be in the image."""
        self.cache.failed(changes.slices)
        for chunk in changes.l1:
            self._l1_dirty.update(
                range(chunk * L1_CHUNK, min((chunk + 1) * L1_CHUNK, len(self.l1)))
            )
