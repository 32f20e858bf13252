"""Whether the refcounts of an image say what its tables do."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.qcow2.compression import place
from drivebay.disk.formats.qcow2.header import BITMAPS, Autoclear, ImageHeader
from drivebay.disk.formats.qcow2.image import name_of, read_header, read_table
from drivebay.disk.formats.qcow2.mapping import COMPRESSED, COPIED, ZERO
from drivebay.disk.formats.qcow2.refcounts import BLOCK_OFFSET, OFFSET
from drivebay.disk.formats.qcow2.slices import Codec, read_padded
from drivebay.disk.formats.qcow2.snapshots import read_snapshots, table_size
from drivebay.disk.formats.store import Store
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["Check", "check"]

MOST_PROBLEMS: Final = 100
CHUNK: Final = 1 << 12
MOST_BITMAPS: Final = 65535
MOST_DIRECTORY: Final = 64 << 20
BITMAP_ENTRY: Final = 24


@dataclass
class Check:
    """What `check` has found."""

    leaks: int = 0
    """Clusters that are counted more often than they are used: space is lost, nothing else."""
    corruptions: int = 0
    """Clusters that are used more often than they are counted, and entries that make no sense:
    writing to such an image may destroy data.
    """
    problems: list[str] = field(default_factory=list)
    """The first of them, in words."""
    repaired: int = 0
    """Of both, what is no more."""
    used_clusters: int = 0
    total_clusters: int = 0
    """Clusters in the image, used or not."""

    @property
    def clean(self) -> bool:
        """Nothing is wrong, or nothing any more."""
        return self.leaks + self.corruptions == self.repaired


def check(disk: Disk, *, repair: bool = False) -> Check:
    """Compare the refcounts of the image in `disk` with its tables, snapshots and bitmaps.

    With `repair` refcounts are set right, unless some entries make no sense: then nobody knows what
    is used. The disk stays open, and nobody else may have it. The work grows with the tables; the
    memory with what is used, 8 bytes a cluster.

    Raises `DiskOpenError` if it is no image that can be read, and `DiskError`.
    """
    name = name_of(disk)
    try:
        return run(_Checker(Store(disk), name).check(repair))
    except DiskError as error:
        raise DiskOpenError(f"{name}: {error}") from error


class _Counts:
    """A number for each cluster that is used."""

    def __init__(self) -> None:
        self._chunks: dict[int, array[int]] = {}

    def add(self, cluster: int, times: int) -> None:
        chunk = self._chunks.get(cluster // CHUNK)
        if chunk is None:
            chunk = self._chunks[cluster // CHUNK] = array("Q", bytes(8 * CHUNK))
        chunk[cluster % CHUNK] += times

    def equal(self, first: int, numbers: array[int]) -> bool:
        """Whether `numbers` are those from cluster `first` on, if that is a matter of one chunk."""
        chunk = self._chunks.get(first // CHUNK)
        if chunk is None:
            return first % CHUNK + len(numbers) <= CHUNK and not any(numbers.tobytes().strip(b"\0"))
        return chunk[first % CHUNK :][: len(numbers)] == numbers

    def get(self, cluster: int) -> int:
        chunk = self._chunks.get(cluster // CHUNK)
        return chunk[cluster % CHUNK] if chunk is not None else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for number in sorted(self._chunks):
            for within, count in enumerate(self._chunks[number]):
                if count:
                    yield number * CHUNK + within, count


class _Checker:
    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.found = Check()
        self.counts = _Counts()
        self.senseless = 0

    async def check(self, repair: bool) -> Check:
        header = await read_header(self.store, self.name)
        self.header, self.bits = header, header.fields.cluster_bits
        self.cluster = 1 << self.bits
        self.found.total_clusters = -(-self.store.size >> self.bits)
        self.table = await self._refcount_table(header)
        await self._count_tables(header)
        await self._compare(write=False)
        found = self.found
        found.corruptions += self.senseless
        if repair and not self.senseless and self.store.disk.read_only:
            raise DiskOpenError(f"{self.name}: is read-only and cannot be repaired")
        if repair and not self.senseless:
            if not found.clean:
                await self._compare(write=True)
                await self.store.flush()
            if header.incompatible.DIRTY:
                features = header.incompatible.replace(DIRTY=False)
                await self.store.write(72, [memoryview(features.to_bytes(8, "big"))])
            await self.store.flush()
        return found

    # -- what is used ----------------------------------------------------------------------------

    async def _count_tables(self, header: ImageHeader) -> None:
        fields = header.fields
        snapshots = await read_snapshots(self.store, fields)
        self._use(0, self.cluster, "the header")
        self._use(fields.snapshots_offset, table_size(snapshots), "the snapshot table")
        l1_tables = {(fields.l1_table_offset, fields.l1_size): 1}
        for snapshot in snapshots:
            key = snapshot.l1_table_offset, snapshot.l1_size
            l1_tables[key] = l1_tables.get(key, 0) + 1
        l2_tables: dict[int, int] = {}
        active: set[int] = set()
        for (offset, size), times in l1_tables.items():
            self._use(offset, size * 8, "an L1 table", times)
            for entry in await read_table(self.store, offset, size):
                if l2 := entry & OFFSET:
                    l2_tables[l2] = l2_tables.get(l2, 0) + times
                    if offset == fields.l1_table_offset and entry & COPIED:
                        active.add(l2)
        for l2, times in l2_tables.items():
            if self._use(l2, self.cluster, "an L2 table", times):
                await self._count_l2(l2, times)
            if l2 in active and times > 1:
                self._senseless(f"the L2 table at {l2:#x} is shared, and marked as not shared")
        if Autoclear(fields.autoclear_features).BITMAPS:
            await self._count_bitmaps(header.extensions.get(BITMAPS, b""))

    async def _count_l2(self, offset: int, times: int) -> None:
        entries = await read_table(self.store, offset, self.cluster // 8)
        for entry in entries[::2] if self.header.extended else entries:
            if not entry:
                continue
            if entry & COMPRESSED:
                host, length = place(entry, self.bits)
                length = min(length, self.store.size - host)
                self._use(host, max(length, 1), "a compressed cluster", times, aligned=False)
            elif host := entry & OFFSET:
                self._use(host, self.cluster, "a cluster", times)
            elif entry & ~ZERO:
                self._senseless(f"the L2 entry {entry:#x}")

    async def _count_bitmaps(self, extension: bytes) -> None:
        if len(extension) < 24:
            self._senseless("the bitmaps extension is too short")
            return
        count = int.from_bytes(extension[:4], "big")
        size, offset = (int.from_bytes(extension[at : at + 8], "big") for at in (8, 16))
        if count > MOST_BITMAPS or size > min(MOST_DIRECTORY, self.store.size):
            self._senseless(f"{count} bitmaps in a directory of {size} bytes")
            return
        if not self._use(offset, size, "the bitmap directory"):
            return
        data, at = await read_padded(self.store, offset, size), 0
        for _ in range(count):
            entry = data[at : at + BITMAP_ENTRY]
            table, length = int.from_bytes(entry[:8], "big"), int.from_bytes(entry[8:12], "big")
            rest = int.from_bytes(entry[18:20], "big") + int.from_bytes(entry[20:24], "big")
            at += BITMAP_ENTRY + rest + -rest % 8
            if at > size or not self._use(table, length * 8, "a bitmap table"):
                self._senseless("the bitmap directory ends too early")
                return
            for cluster in await read_table(self.store, table, length):
                if cluster & OFFSET:
                    self._use(cluster & OFFSET, self.cluster, "a bitmap")

    def _use(
        self, offset: int, length: int, what: str, times: int = 1, aligned: bool = True
    ) -> bool:
        """Count the clusters of a range; whether it can be where it is said to be."""
        if not length:
            return True
        end = -(-self.store.size >> self.bits) << self.bits
        if (aligned and offset & self.cluster - 1) or offset + length > end:
            self._senseless(f"{what} at {offset:#x} of {length} bytes")
            return False
        for cluster in range(offset >> self.bits, (offset + length - 1 >> self.bits) + 1):
            self.counts.add(cluster, times)
        return True

    def _senseless(self, what: str) -> None:
        self.senseless += 1
        self._tell(what)

    def _tell(self, what: str, most: int = MOST_PROBLEMS) -> None:
        if len(self.found.problems) < most:
            self.found.problems.append(what)

    # -- what is counted -------------------------------------------------------------------------

    async def _refcount_table(self, header: ImageHeader) -> dict[int, int]:
        """The offsets of refcount blocks, by number."""
        fields = header.fields
        size = fields.refcount_table_clusters << self.bits
        self._use(fields.refcount_table_offset, size, "the refcount table")
        blocks: dict[int, int] = {}
        seen: set[int] = set()
        table = await read_table(self.store, fields.refcount_table_offset, size // 8)
        for number, entry in enumerate(table):
            offset = entry & BLOCK_OFFSET
            if not offset:
                continue
            if offset in seen:
                self._senseless(f"the refcount block at {offset:#x} is used twice")
            elif self._use(offset, self.cluster, "a refcount block"):
                blocks[number] = offset
            seen.add(offset)
        return blocks

    async def _compare(self, write: bool) -> None:
        """Compare what is counted with what is used; with `write` make it the same."""
        order = self.header.fields.refcount_order
        codec, per_block = Codec(1 << order), self.cluster << 3 >> order
        for number, offset in self.table.items():
            data = await read_padded(self.store, offset, self.cluster)
            numbers = codec.decode(data)
            changed = False
            for start in range(0, per_block, CHUNK):
                first = number * per_block + start
                part = numbers[start : start + CHUNK]
                if self.counts.equal(first, part):
                    continue
                for within, counted in enumerate(part):
                    used = self.counts.get(first + within)
                    if counted != used and write:
                        numbers[start + within] = used
                        changed = True
                        self.found.repaired += 1
                    elif counted != used:
                        self._differs(first + within, counted, used)
            if changed:
                await self.store.write(offset, [memoryview(codec.encode(numbers))])
        if write:
            return
        most = (1 << (1 << order)) - 1
        for cluster, used in self.counts:
            self.found.used_clusters += 1
            if cluster // per_block not in self.table or used > most:
                self._senseless(f"cluster {cluster:#x} is used {used} times and cannot be counted")

    def _differs(self, cluster: int, counted: int, used: int) -> None:
        if leaks := counted > used:
            self.found.leaks += 1
        else:
            self.found.corruptions += 1
        text = f"cluster {cluster:#x} is used {used} times and counted {counted} times"
        self._tell(text, MOST_PROBLEMS // 2 if leaks else MOST_PROBLEMS)  # room for what is worse
