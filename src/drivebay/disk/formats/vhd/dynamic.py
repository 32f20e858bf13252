"""Dynamic and differencing VHD images: blocks with a bitmap each, found by a table."""

from __future__ import annotations

import errno
import sys
from array import array
from typing import TYPE_CHECKING, Final

from drivebay.disk.contract import Unmap
from drivebay.disk.errors import DiskOpenError, InvalidInput, NoSpace
from drivebay.disk.formats.chain import Parent
from drivebay.disk.formats.sparse import (
    Presence,
    SparseImage,
    first_overlap,
    is_touched,
    set_bits,
)
from drivebay.disk.formats.vhd.footer import (
    FOOTER_SIZE,
    SECTOR,
    DiskType,
    Footer,
)
from drivebay.disk.formats.vhd.header import (
    HEADER_SIZE,
    DynamicHeader,
    parent_paths,
    table_size,
)
from drivebay.suspend import Lock

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.formats.store import Store

__all__ = ["NONE", "DynamicVhd", "bitmap_size", "read_table", "table_bytes", "used_places"]

NONE: Final = 0xFFFFFFFF
"""The entry of a block that has no place."""
PER_SECTOR: Final = SECTOR // 4
ALIGNMENT: Final = 4096
"""Blocks' data begin at a multiple of this, so that direct I/O and 4K disks need no detour."""
CHUNK: Final = 1 << 20

# Bit 7 of a byte of a bitmap is its first sector; in memory bit 0 is.
TURNED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class DynamicVhd(SparseImage):
    """A dynamic or differencing image in `store`. `open` makes one.

    A block's bitmap says which sectors were written. Dynamic images have all bits set from the
    start, since what was not written reads zero anyway; so does QEMU. Of a differencing image they
    are what it holds.
    """

    kind = "vhd"

    def __init__(
        self,
        store: Store,
        footer: Footer,
        header: DynamicHeader,
        table: array[int],
        end: int,
        *,
        read_only: bool,
    ) -> None:
        super().__init__(
            store,
            size=footer.capacity,
            block_size=header.block_size,
            sector_size=SECTOR,
            read_only=read_only,
        )
        self.footer, self.header = footer, header
        self.disk_id = footer.disk_id
        self._table = table
        self._bitmap = bitmap_size(header.block_size)
        self._end = end
        """From here on nothing of the store is used, but for the footer."""
        self._footer_at: int | None = None
        self._footer_turn = Lock()
        self._differencing = footer.disk_type == DiskType.DIFFERENCING
        self._tracks = True
        self._whole = bytearray(len(table))
        """Of a dynamic image: which blocks are known to have all bits set."""
        self._bits: dict[int, bytearray] = {}
        """Of a differencing image: the bitmaps that have been loaded."""
        self._changed_entries: set[int] = set()
        self._changed_bits: set[int] = set()
        if self._differencing:
            self.unmap_behaviour = Unmap.UNSPECIFIED

    @classmethod
    async def open(
        cls,
        store: Store,
        footer: Footer,
        header: DynamicHeader,
        *,
        footer_at: int | None,
        read_only: bool,
    ) -> DynamicVhd:
        """The image that `footer` and `header` describe. Raises `DiskOpenError` and `DiskError`.

        `footer_at` is where its last footer was found, None if it is missing.
        """
        table = await read_table(store, footer, header)
        end = used_places(footer, header, table, store.size if footer_at is None else footer_at)
        image = cls(store, footer, header, table, end, read_only=read_only)
        image._footer_at = footer_at
        if image._differencing:
            paths = await parent_paths(header, store)
            if not paths:
                raise DiskOpenError("vhd: a differencing image that does not say of which parent")
            image.parent = Parent(paths, "vpc")
        if not read_only:
            await image._write_footer(end)
        return image

    def check_parent(self, parent: Disk) -> None:
        """Raise `DiskOpenError` unless `parent` has the unique id that the header names."""
        if parent.disk_id != self.header.parent_unique_id:
            raise DiskOpenError(
                f"vhd: the parent's id is {(parent.disk_id or b'none').hex()}, the image was made "
                f"on {self.header.parent_unique_id.hex()}",
                "another image has taken the parent's place",
            )

    # -- the table -------------------------------------------------------------------------------

    def _locate(self, block: int) -> int:
        entry = self._table[block]
        return 0 if entry == NONE else entry * SECTOR + self._bitmap

    async def _write_footer(self, end: int) -> None:
        """Have the footer at the end of the store, and room for `end` bytes before it."""
        async with self._footer_turn:  # or one that a flush writes lands in a block made meanwhile
            if end + FOOTER_SIZE > self.store.size:
                self._clean = False  # whatever comes of it, a flush looks at the footer again
                try:
                    await self.store.grow(end + FOOTER_SIZE)
                except InvalidInput as error:
                    raise NoSpace(errno.ENOSPC, f"vhd: {error}") from error
            if self._footer_at != (at := self.store.size - FOOTER_SIZE):
                await self.store.write(at, self.footer.buffers())
                self._footer_at = at

    async def _allocate(self, block: int) -> int:
        # Until the new footer is stable the copy at the start of the image is the only one.
        at = -(-(self._end + self._bitmap) // ALIGNMENT) * ALIGNMENT
        end, size = at + self.block_size, self.store.size
        entry = (at - self._bitmap) // SECTOR
        if entry >= NONE:
            raise NoSpace(errno.ENOSPC, "vhd: the image has reached 2 TiB")
        await self._write_footer(end)
        if at < size:  # there may be anything: the old footer, a block that a power cut undid
            await self.store.write_zeroes(at, min(end, size) - at)
        bits = bytes(self._bitmap) if self._differencing else b"\xff" * self._bitmap
        await self.store.write(at - self._bitmap, [memoryview(bits)])
        self._end = end
        self._table[block] = entry
        self._changed_entries.add(block // PER_SECTOR)
        self._clean = False
        if self._differencing:
            self._bits[block] = bytearray(self._bitmap)
        self._whole[block] = True
        return at

    # -- the bitmaps -----------------------------------------------------------------------------

    def _presence(self, block: int) -> Presence | None:
        if not self._differencing:
            return True
        if self._table[block] == NONE:
            return False
        return (self._bits[block], 0) if block in self._bits else None

    def _holds(self, offset: int, length: int) -> bool:
        if self._differencing:
            return super()._holds(offset, length)
        return self._whole[offset >> self._block_shift] == 1

    async def _load(self, block: int) -> None:
        if self._whole[block] or self._table[block] == NONE:
            return
        data = await self.store.read(self._table[block] * SECTOR, self._bitmap)
        if self._whole[block]:  # somebody else has, in the meantime
            return
        self._bits[block] = bytearray(data.translate(TURNED))
        self._whole[block] = True
        if not self._differencing and not self.read_only:
            # The sectors without a bit read as the file has them: zero.
            bits = self._bits.pop(block)
            if bits.count(0xFF) != len(bits):
                self._bits[block] = bytearray(b"\xff" * self._bitmap)
                self._changed_bits.add(block)
                self._clean = False

    def _hold(self, block: int, first: int, count: int) -> None:
        if self._differencing:
            set_bits(self._bits[block], first, count)
            self._changed_bits.add(block)
            self._clean = False

    # -- stability -------------------------------------------------------------------------------

    async def _commit(self) -> None:
        entries, self._changed_entries = self._changed_entries, set()
        blocks, self._changed_bits = self._changed_bits, set()
        writes = [
            (self.header.table_offset + number * SECTOR, self._table_sector(number))
            for number in sorted(entries)
        ]
        writes += [
            (self._table[block] * SECTOR, bytes(self._bits[block].translate(TURNED)))
            for block in sorted(blocks)
        ]
        try:
            await self._write_footer(self._end)
            await self.store.flush()
            for offset, data in writes:
                await self.store.write(offset, [memoryview(data)])
            if writes:
                await self.store.flush()
        except BaseException:
            self._changed_entries |= entries
            self._changed_bits |= blocks
            raise
        self._clean = not (self._changed_entries or self._changed_bits)

    def _table_sector(self, number: int) -> bytes:
        entries = self._table[number * PER_SECTOR : (number + 1) * PER_SECTOR]
        return table_bytes(entries).ljust(SECTOR, b"\xff")

    # -- the rest --------------------------------------------------------------------------------

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Its type, its blocks, its parent."""
        kind = "differencing" if self._differencing else "dynamic"
        found: dict[str, str | int | bool] = {"type": kind, "block_size": self.block_size}
        if self.parent is not None:
            found["parent"] = self.parent.paths[0]
        return found


# -- tables ----------------------------------------------------------------------------------------


def bitmap_size(block_size: int) -> int:
    """The bytes of a block's bitmap: whole sectors."""
    return -(-block_size // (SECTOR * 8 * SECTOR)) * SECTOR


async def read_table(store: Store, footer: Footer, header: DynamicHeader) -> array[int]:
    """The entries of the blocks that the disk has."""
    table = array("I")
    left = -(-footer.capacity // header.block_size) * 4
    offset = header.table_offset
    while left:
        size = min(left, CHUNK)
        table.frombytes(await store.read(offset, size))
        offset, left = offset + size, left - size
    if sys.byteorder == "little":
        table.byteswap()
    return table


def table_bytes(entries: array[int]) -> bytes:
    """Entries as the image has them."""
    entries = entries[:]
    if sys.byteorder == "little":
        entries.byteswap()
    return entries.tobytes()


def used_places(footer: Footer, header: DynamicHeader, table: array[int], container: int) -> int:
    """Where the used part of an image of `container` bytes ends.

    Raises `DiskOpenError` where blocks lie on each other, on tables, or outside of the image.
    """
    size = bitmap_size(header.block_size) + header.block_size
    places = sorted(entry * SECTOR for entry in table if entry != NONE)
    if (place := first_overlap(places, size)) is not None:
        raise DiskOpenError(
            f"vhd: two blocks of the disk share the bytes at {place}", "the image is damaged"
        )
    tables = [
        (0, FOOTER_SIZE),
        (footer.data_offset, HEADER_SIZE),
        (header.table_offset, table_size(header.max_table_entries)),
    ]
    if footer.disk_type == DiskType.DIFFERENCING:
        tables += [
            (locator.platform_data_offset, locator.platform_data_length)
            for locator in header.locators
        ]
    end = max(offset + length for offset, length in tables)
    if places:
        if places[-1] + size > container:
            raise DiskOpenError(
                f"vhd: a block at {places[-1]}, of an image of {container} bytes",
                "the image is truncated",
            )
        for offset, length in tables:
            if is_touched(places, size, offset, length):
                raise DiskOpenError(f"vhd: a block lies on the tables at {offset}")
        end = max(end, places[-1] + size)
    return end
