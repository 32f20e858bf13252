"""The block allocation table of a VHDX image ([MS-VHDX] 2.5)."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.sparse import first_overlap, is_touched
from drivebay.disk.formats.vhdx.structs import MEBIBYTE, PAGE, State
from drivebay.wire import Bits, Register64

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store
    from drivebay.disk.formats.vhdx.headers import Region
    from drivebay.disk.formats.vhdx.metadata import Metadata

__all__ = [
    "IN_PAGE",
    "PAGE_SHIFT",
    "PLACE",
    "STATE",
    "BatEntry",
    "Layout",
    "Places",
    "Table",
    "find_places",
]


class BatEntry(Register64):
    """Where a block is and what is known of it."""

    FileOffsetMB = Bits(63, 20)
    State = Bits(2, 0, State)


STATE: Final = int(BatEntry.State)
PLACE: Final = int(BatEntry.FileOffsetMB)
"""Mebibytes in these bits are bytes in a number without the others."""

EMPTY: Final = bytes(MEBIBYTE)  # not a view, which is compared byte by byte
ENTRY: Final = 8
PER_PAGE: Final = PAGE // ENTRY
PAGE_SHIFT: Final = PER_PAGE.bit_length() - 1
IN_PAGE: Final = PER_PAGE - 1
PER_BITMAP: Final = 8 * MEBIBYTE
"""Sectors that one bitmap block tells of: a chunk."""


@dataclass(frozen=True)
class Layout:
    """Which entry is whose: after those of each chunk's payload blocks is that of its bitmap."""

    disk_size: int
    block_size: int
    sector_size: int
    differencing: bool

    @classmethod
    def of(cls, found: Metadata) -> Layout:
        """The layout of an image."""
        differencing = found.locator is not None
        return cls(found.disk_size, found.block_size, found.logical_sector_size, differencing)

    @property
    def ratio(self) -> int:
        """Payload blocks in a chunk: a power of two."""
        return PER_BITMAP * self.sector_size // self.block_size

    @property
    def blocks(self) -> int:
        """Payload blocks of the disk."""
        return -(-self.disk_size // self.block_size)

    @property
    def entries(self) -> int:
        """Entries of the table. A differencing image has whole chunks."""
        chunks = -(-self.blocks // self.ratio)
        if self.differencing:
            return chunks * (self.ratio + 1)
        return self.blocks + chunks - 1

    def bitmap(self, chunk: int) -> int:
        """The index of the entry of a chunk's bitmap block."""
        return chunk * (self.ratio + 1) + self.ratio


class Table:
    """The entries, in the pages that have any; the others are zero.

    So it takes no more memory than the image has bytes that are not zero.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        self.pages: dict[int, array[int]] = {}
        self.changed: set[int] = set()
        """Pages that are not in the image as they are here."""

    def __getitem__(self, index: int) -> int:
        page = self.pages.get(index >> PAGE_SHIFT)
        return page[index & IN_PAGE] if page is not None else 0

    def __setitem__(self, index: int, entry: int) -> None:
        number = index >> PAGE_SHIFT
        if number not in self.pages:
            self.pages[number] = array("Q", bytes(PAGE))
        self.pages[number][index & IN_PAGE] = entry
        self.changed.add(number)

    def page(self, number: int) -> tuple[int, bytes]:
        """Where in the image the page is, and what should be there."""
        entries = self.pages[number][:]
        if sys.byteorder == "big":
            entries.byteswap()
        return self.region.offset + number * PAGE, entries.tobytes()

    async def load(self, store: Store, entries: int) -> None:
        """Read so many entries, but for the pages that are here."""
        end = entries * ENTRY
        for start in range(0, end, MEBIBYTE):
            data = await store.read(self.region.offset + start, MEBIBYTE)
            if data == EMPTY:
                continue
            for at in range(0, min(MEBIBYTE, end - start), PAGE):
                page = data[at : at + PAGE]
                if page != EMPTY[:PAGE]:
                    self.pages.setdefault((start + at) // PAGE, _entries(page))

    def clear_from(self, index: int) -> None:
        """Make the entries from `index` on zero, as far as they are loaded."""
        for number, page in self.pages.items():
            first = max(0, index - number * PER_PAGE)
            if first < PER_PAGE and any(page[first:]):
                page[first:] = array("Q", bytes(ENTRY * (PER_PAGE - first)))
                self.changed.add(number)


def _entries(page: bytes) -> array[int]:
    entries = array("Q", page)
    if sys.byteorder == "big":
        entries.byteswap()
    return entries


class Places(NamedTuple):
    """Where in the image blocks are, in bytes, sorted."""

    payload: list[int]
    bitmaps: list[int]
    anchors: list[int]
    """Places that unmapped blocks keep."""
    anchored: bool
    """The anchors make sense; if not, they are forgotten."""

    def used(self, block_size: int) -> int:
        """The bytes of all of them together."""
        blocks = len(self.payload) + len(self.anchors)
        return blocks * block_size + len(self.bitmaps) * MEBIBYTE

    def end(self, block_size: int) -> int:
        """The first byte after all of them."""
        ends = [places[-1] + block_size for places in (self.payload, self.anchors) if places]
        return max([*ends, *(place + MEBIBYTE for place in self.bitmaps[-1:])], default=0)


def find_places(table: Table, layout: Layout, tables: list[Region], size: int) -> Places:
    """Every block's place in an image of `size` bytes.

    Raises `DiskOpenError` where blocks lie on each other, on `tables`, or outside of the image, and
    for states that cannot be.
    """
    payload: list[int] = []
    anchors: list[int] = []
    bitmaps: list[int] = []
    valid = {0, 1, 2, 3, 6, 7} if layout.differencing else {0, 1, 2, 3, 6}
    for number, first, entries, own in _runs(table, layout):
        if wrong := {entry & STATE for entry in entries} - valid:
            index = first + [entry & STATE for entry in entries].index(min(wrong))
            raise DiskOpenError(f"vhdx: entry {index} has the state {min(wrong)}", "it is damaged")
        payload += [entry & PLACE for entry in entries if entry & STATE >= State.FULLY_PRESENT]
        anchors += [entry & PLACE for entry in entries if entry & STATE == State.UNMAPPED]
        if own is not None and layout.differencing:
            if own & STATE == State.FULLY_PRESENT:
                bitmaps.append(own & PLACE)
            elif own & STATE:
                raise DiskOpenError(f"vhdx: bitmap {number} has the state {own & STATE}")
        partial = any(entry & STATE == State.PARTIALLY_PRESENT for entry in entries)
        if partial and table[layout.bitmap(number)] & STATE != State.FULLY_PRESENT:
            raise DiskOpenError(f"vhdx: blocks of chunk {number} need a bitmap that is missing")
    payload.sort()
    bitmaps.sort()
    block_size = layout.block_size
    taken = [*tables, *((place, MEBIBYTE) for place in bitmaps)]
    _check("block", payload, block_size, taken, size)
    _check("bitmap", bitmaps, MEBIBYTE, list(tables), size)
    anchors = sorted(place for place in anchors if place)
    try:
        _check("anchor", sorted(payload + anchors), block_size, taken, size)
    except DiskOpenError:
        return Places(payload, bitmaps, [], anchored=False)
    return Places(payload, bitmaps, anchors, anchored=True)


def _runs(table: Table, layout: Layout) -> Iterator[tuple[int, int, array[int], int | None]]:
    """The entries of each page that has any, cut where chunks end: the chunk, the index of the
    first, those of payload blocks, and that of the bitmap if it comes next.
    """
    step = layout.ratio + 1
    for number in sorted(table.pages):
        page, start = table.pages[number], number * PER_PAGE
        stop = min(start + PER_PAGE, layout.entries)
        index = start
        while index < stop:
            chunk = index // step
            bitmap = layout.bitmap(chunk)
            end = min(bitmap, stop)
            own = page[bitmap - start] if bitmap < stop else None
            yield chunk, index, page[index - start : end - start], own
            index = end + 1


def _check(
    name: str, places: list[int], length: int, taken: list[tuple[int, int]], size: int
) -> None:
    if (place := first_overlap(places, length)) is not None:
        raise DiskOpenError(f"vhdx: two {name}s share the bytes at {place}", "it is damaged")
    if places and places[-1] + length > size:
        raise DiskOpenError(
            f"vhdx: a {name} at {places[-1]}, of an image of {size} bytes", "it is truncated"
        )
    for offset, other in taken:
        if is_touched(places, length, offset, other):
            raise DiskOpenError(f"vhdx: a {name} lies on what is at {offset}", "it is damaged")
