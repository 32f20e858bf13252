"""A qcow2 image that is read, and what opening one takes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import cut, scatter, zero
from drivebay.disk.contract import MOST_EXTENTS, Buffers, Disk, Extent, Operation, Unmap
from drivebay.disk.errors import DiskError, DiskOpenError, IllegalBlock, ReadOnly
from drivebay.disk.formats.chain import Image, Parent
from drivebay.disk.formats.qcow2 import header as headers
from drivebay.disk.formats.qcow2.compression import decompressor, place
from drivebay.disk.formats.qcow2.mapping import COPIED, IN_PLACE, Kind, Mapping, Part
from drivebay.disk.formats.qcow2.pacing import Epoch
from drivebay.disk.formats.qcow2.refcounts import OFFSET, corrupt
from drivebay.disk.formats.qcow2.slices import Codec, read_padded
from drivebay.disk.formats.qcow2.snapshots import Snapshot, read_snapshots
from drivebay.disk.formats.store import Store
from drivebay.suspend import DONE, blocking, run, together

if TYPE_CHECKING:
    from drivebay.disk.layers.layer import ReadBelow
    from drivebay.disk.layers.presence import Run

__all__ = ["SECTOR_SHIFT", "Qcow2Reader", "name_of", "read_header", "read_table"]

SECTOR_SHIFT: Final = 9
MOST_LOOKED: Final = 256  # slices of L2 tables that one answer of `extents` is made of


class Qcow2Reader(Image):
    """The image in `disk`, or the internal snapshot of it that has the name or id `snapshot`.

    What it does not hold reads zero, or shows what lies below it. Raises `DiskOpenError`; then
    `disk` is still open.
    """

    kind = "qcow2"
    unmap_behaviour = Unmap.ZEROES

    def __init__(self, disk: Disk, *, snapshot: str = "") -> None:
        super().__init__()
        self.store = Store(disk)
        self.name = name_of(disk)
        try:
            run(self._open(snapshot))
        except DiskError as error:
            raise DiskOpenError(f"{self.name}: {error}") from error
        self.read_only = True
        self.physical_sector_size = max(512, disk.physical_sector_size)
        self.persistent = disk.persistent
        self.disk_id = disk.disk_id
        self._epoch = Epoch()
        self._generation = 0
        self._limit = self.store.size
        self._read_below: ReadBelow | None = None
        self._unpacked: tuple[int, int, bytes] = (0, -1, b"")

    async def _open(self, snapshot: str) -> None:
        self.header = await read_header(self.store, self.name)
        fields = self.header.fields
        self.snapshots = await read_snapshots(self.store, fields)
        size, l1_size, l1_offset = fields.disk_size, fields.l1_size, fields.l1_table_offset
        self.snapshot = _chosen(self.snapshots, snapshot, self.name) if snapshot else None
        if self.snapshot is not None:
            size = self.snapshot.disk_size or size
            l1_size, l1_offset = self.snapshot.l1_size, self.snapshot.l1_table_offset
        self._set_size(size)
        l1 = await read_table(self.store, l1_offset, l1_size)
        self.mapping = Mapping(self.store, self.header, l1, l1_offset)
        if l1_size << self.mapping.cluster_bits + self.mapping.l2_bits < self._bytes:
            raise DiskOpenError(f"{self.name}: the snapshot's L1 table is too short")
        self._decompress = decompressor(self.header.compression, self.name)
        self._cluster_bits = fields.cluster_bits
        self._cluster_size = 1 << fields.cluster_bits
        self._span_bits = self.mapping.span_bits
        self.optimal_unmap_sectors = self._cluster_size >> SECTOR_SHIFT
        if self.header.backing_file:
            self.parent = Parent((self.header.backing_file,), self.header.backing_format)
        # An entry tells where data are by itself, unless there are subclusters.
        self._in_place = 0 if self.header.extended else IN_PLACE | self._cluster_size - 1

    def _set_size(self, size: int) -> None:
        self.sector_count = size >> SECTOR_SHIFT
        self._bytes = self.sector_count << SECTOR_SHIFT

    # -- reading ---------------------------------------------------------------------------------

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Fill `buffers`. What the image does not hold reads zero."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << SECTOR_SHIFT
        if at := self._place(offset, length):
            operation = self.store.read_into(at, buffers)
            if operation is DONE:
                return DONE
            return self._guarded(operation, self._epoch, sector, buffers, length)
        return self._read_slowly(sector, buffers, length)

    def _place(self, offset: int, length: int) -> int:
        """Where in the store the range is, if that is in memory and one place that may be written;
        0 if not.
        """
        bits, last = self._cluster_bits, offset + length - 1
        number = offset >> self._span_bits
        if not 0 <= offset <= last < self._bytes or last >> self._span_bits != number:
            return 0
        if not (found := self.mapping.cache.recent.get(number)):
            return 0
        numbers, mask = found.numbers, self.mapping.slice_mask
        first = offset >> bits & mask
        entry = numbers[first]
        at = (entry & OFFSET) + (offset & self._cluster_size - 1)
        if entry & self._in_place != COPIED or not self._cluster_size <= at <= self._limit - length:
            return 0
        if more := (last >> bits) - (offset >> bits):
            step = self._cluster_size
            row = range(entry + step, entry + more * step + 1, step)
            if numbers[first + 1 : first + 1 + more] != array("Q", row):
                return 0
        return at

    async def _guarded(
        self, operation: Operation, epoch: Epoch, sector: int, buffers: Buffers, length: int
    ) -> None:
        """Do what was made ready in `epoch`, if clusters still lie as they did."""
        if epoch is not self._epoch:
            operation.close()
            await self._read_slowly(sector, buffers, length)
            return
        with epoch:
            await operation

    async def _read_slowly(self, sector: int, buffers: Buffers, length: int) -> None:
        self.check_range(sector, length >> SECTOR_SHIFT)
        with self._epoch:
            await self._read_parts(sector << SECTOR_SHIFT, buffers, length)

    async def _read_parts(
        self, offset: int, buffers: Buffers, length: int, read_below: ReadBelow | None = None
    ) -> None:
        """Read any bytes; those that are absent with `read_below`, or as zeroes."""
        reads: list[Operation] = []
        start = offset
        for at, size in self._spans(offset, length):
            found = self.mapping.find(at >> self._span_bits) or await self.mapping.load(
                at >> self._span_bits
            )
            for part in self.mapping.parts(found, at, size):
                into = cut(buffers, part.offset - start, part.offset - start + part.length)
                if part.kind is Kind.DATA:
                    reads.append(self._read_host(part, into))
                elif part.kind is Kind.PACKED:
                    reads.append(self._read_packed(part, into))
                elif part.kind is Kind.ABSENT and read_below is not None:
                    reads.append(read_below(part.offset >> SECTOR_SHIFT, into))
                else:
                    zero(into)
        if len(reads) == 1:
            await reads[0]
        elif reads:
            await together(reads)

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """The range cut where slices of L2 tables end, or rows of missing L2 tables."""
        end = offset + length
        while offset < end:
            stop = min(self.mapping.same_until(offset >> self._span_bits) << self._span_bits, end)
            yield offset, stop - offset
            offset = stop

    def _read_host(self, part: Part, buffers: Buffers) -> Operation:
        there = self.store.size - part.host
        if part.length > there:  # the image ends in a cluster, the rest of which is zero
            zero(cut(buffers, there, part.length))
            buffers = cut(buffers, 0, there)
        return self.store.read_into(part.host, buffers)

    async def _read_packed(self, part: Part, buffers: Buffers) -> None:
        cluster = await self._unpack(part.host)
        inside = part.offset & self._cluster_size - 1
        scatter(buffers, memoryview(cluster)[inside : inside + part.length])

    async def _unpack(self, entry: int) -> bytes:
        """The compressed cluster of an L2 entry; the last one is remembered."""
        generation = self._generation
        before, last, unpacked = self._unpacked
        if (before, last) == (generation, entry):
            return unpacked
        offset, length = place(entry, self._cluster_bits)
        if offset >= self.store.size:
            raise corrupt(f"a compressed cluster at {offset:#x}")
        data = await read_padded(self.store, offset, length)
        cluster: bytes = await blocking(partial(self._decompress, data, self._cluster_size))
        self._unpacked = generation, entry, cluster
        return cluster

    # -- what it holds ---------------------------------------------------------------------------

    def runs(self, sector: int, count: int) -> list[Run]:
        """What has an L2 entry is present; no runs if L2 tables must be read to tell."""
        runs: list[Run] = []
        for at, size in self._spans(sector << SECTOR_SHIFT, count << SECTOR_SHIFT):
            if not (found := self.mapping.find(at >> self._span_bits)):
                return []
            for part in self.mapping.parts(found, at, size):
                _add_run(runs, part)
        return runs

    async def find_runs(self, sector: int, count: int) -> list[Run]:
        """The same, when they have been read."""
        runs: list[Run] = []
        for at, size in self._spans(sector << SECTOR_SHIFT, count << SECTOR_SHIFT):
            found = await self.mapping.load(at >> self._span_bits)
            for part in self.mapping.parts(found, at, size):
                _add_run(runs, part)
        return runs

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """Clusters as the tables have them."""
        self.check_range(sector, count)
        found: list[Extent] = []
        looked = 0
        for at, size in self._spans(sector << SECTOR_SHIFT, count << SECTOR_SHIFT):
            slice_ = await self.mapping.load(at >> self._span_bits)
            for part in self.mapping.parts(slice_, at, size):
                _add_extent(found, part)
            looked += slice_.offset != 0
            if len(found) >= MOST_EXTENTS or looked >= MOST_LOOKED:
                break
        return found

    def stand_on(self, read_below: ReadBelow) -> None:
        """What lies below fills the clusters that are written in part."""
        self._read_below = read_below

    # -- the rest of a disk that is only read ----------------------------------------------------

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Refused."""
        self._refuse(sector, sum(map(len, buffers)) >> SECTOR_SHIFT)

    async def flush(self) -> None:
        """There is nothing to make stable."""

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Refused."""
        self._refuse(sector, count)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Refused."""
        self._refuse(sector, count)

    async def resize(self, sector_count: int) -> None:
        """Refused."""
        raise ReadOnly(self.kind)

    def _refuse(self, sector: int, count: int) -> None:
        if sector < 0 or sector + (count or 1) > self.sector_count:
            raise IllegalBlock(sector, count, self.sector_count)
        if self.read_only:
            raise ReadOnly(self.kind)

    @property
    def inner(self) -> Sequence[Disk]:
        """The disk that the image lies on."""
        return (self.store.disk,)

    @property
    def details(self) -> dict[str, str | int | bool]:
        """What the header says."""
        header = self.header
        shown: dict[str, str | int | bool] = {
            "version": header.fields.version,
            "cluster_size": header.cluster_size,
            "compression": header.compression,
            "snapshots": len(self.snapshots),
        }
        if header.extended:
            shown["subclusters"] = True
        if self.snapshot is not None:
            shown["snapshot"] = self.snapshot.name
        if header.backing_file:
            shown["backing"] = header.backing_file
        return shown

    @property
    def allocated_bytes(self) -> int | None:
        """What the disk below holds for the image."""
        return self.store.disk.allocated_bytes

    def close(self) -> None:
        """Close the disk below."""
        self.store.close()


def name_of(disk: Disk) -> str:
    """What errors call an image: the path of its file, if it is one."""
    return str(disk.details.get("path", disk.kind))


async def read_header(store: Store, name: str) -> headers.ImageHeader:
    """The header of the image. Raises `DiskOpenError` and `DiskError`."""
    data = await read_padded(store, 0, headers.SMALLEST_CLUSTER)
    bits = int.from_bytes(data[20:24], "big")
    if data.startswith(headers.MAGIC) and bits <= headers.LARGEST_CLUSTER.bit_length() - 1:
        data = await store.read(0, min(max(1 << bits, len(data)), store.size))
    return headers.parse(data, store.size, name)


async def read_table(store: Store, offset: int, entries: int) -> array[int]:
    """A table of 64-bit entries, whose size the header's check has found reasonable."""
    return Codec(64).decode(await read_padded(store, offset, entries * 8))


def _chosen(snapshots: Sequence[Snapshot], wanted: str, name: str) -> Snapshot:
    for snapshot in snapshots:
        if wanted in (snapshot.name, snapshot.id):
            return snapshot
    there = ", ".join(snapshot.name or snapshot.id for snapshot in snapshots[:20])
    raise DiskOpenError(
        f"{name}: has no snapshot {wanted!r}", f"there are {there}" if there else "there is none"
    )


def _add_run(runs: list[Run], part: Part) -> None:
    present, count = part.kind is not Kind.ABSENT, part.length >> SECTOR_SHIFT
    if runs and runs[-1][2] == present:
        start, before, _ = runs[-1]
        runs[-1] = (start, before + count, present)
    else:
        runs.append((part.offset >> SECTOR_SHIFT, count, present))


def _add_extent(found: list[Extent], part: Part) -> None:
    holds = part.kind in (Kind.DATA, Kind.PACKED) or part.host != 0
    zeroes = part.kind in (Kind.ABSENT, Kind.ZEROES)
    sector, count = part.offset >> SECTOR_SHIFT, part.length >> SECTOR_SHIFT
    if found and (found[-1].allocated, found[-1].zero) == (holds, zeroes):
        sector, count = found[-1].sector, found.pop().count + count
    found.append(Extent(sector, count, holds, zeroes))
