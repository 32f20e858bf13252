"""An open VHDX image."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from drivebay.disk.contract import Unmap
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    InvalidInput,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.formats.chain import Parent
from drivebay.disk.formats.sparse import Presence, SparseImage, set_bits
from drivebay.disk.formats.store import Store
from drivebay.disk.formats.vhdx.headers import NO_LOG, Headers, Region, read_headers, read_regions
from drivebay.disk.formats.vhdx.log import MOST_PAGES, Log, find_replay
from drivebay.disk.formats.vhdx.metadata import LINKAGE, MOST_SIZE, SIZE, read_metadata
from drivebay.disk.formats.vhdx.structs import MEBIBYTE, PAGE, State, guid_text
from drivebay.disk.formats.vhdx.table import (
    IN_PAGE,
    PAGE_SHIFT,
    PLACE,
    STATE,
    Layout,
    Table,
    find_places,
)
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.formats.vhdx.metadata import Metadata
    from drivebay.disk.formats.vhdx.table import Places

__all__ = ["VhdxImage", "open_vhdx"]

LINKAGES: Final = (LINKAGE, "parent_linkage2")


class VhdxImage(SparseImage):
    """The image that `headers`, `found` and `table` describe. `open_vhdx` makes one.

    An unmapped block keeps its place for when it is written again, and the disk below is told that
    the space may go until then. A fixed image ignores unmaps: it was made to have its space.
    """

    kind = "vhdx"

    def __init__(
        self,
        store: Store,
        headers: Headers,
        found: Metadata,
        table: Table,
        places: Places,
        tables: list[Region],
        *,
        read_only: bool,
    ) -> None:
        super().__init__(
            store,
            size=found.disk_size,
            block_size=found.block_size,
            sector_size=found.logical_sector_size,
            read_only=read_only,
        )
        self.physical_sector_size = max(found.logical_sector_size, found.physical_sector_size)
        self.disk_id = found.disk_id
        self.headers, self.metadata = headers, found
        self.replayed = False
        """The log was not empty, and was written to the image or is kept in memory."""
        self._table = table
        self._layout = Layout.of(found)
        self._chunk_shift = self._layout.ratio.bit_length() - 1
        self.unused_bytes = store.size - places.used(found.block_size)
        """Of the store, as it was when the image was opened."""
        self.unused_bytes -= sum(region.length for region in tables)
        self._anchored = places.anchored
        end = max(places.end(found.block_size), *(region.end for region in tables))
        self._end = -(-end // MEBIBYTE) * MEBIBYTE
        self._log = Log(store, headers.log)
        self._size_page: tuple[int, bytes] | None = None
        self._differencing = self._tracks = found.locator is not None
        if found.locator is not None:
            self.parent = Parent(_paths(found.locator), "vhdx")
            self.unmap_behaviour = Unmap.UNSPECIFIED
        elif found.keeps_blocks:
            self.unmap_behaviour = Unmap.IGNORED
        # Of a differencing image: the bitmaps that have been loaded, cut into units that hold whole
        # pages and the bits of whole blocks.
        self._sectors = found.block_size // found.logical_sector_size
        self._unit = max(PAGE, self._sectors // 8)
        self._units: dict[int, bytearray] = {}
        self._changed_bits: set[int] = set()

    def check_parent(self, parent: Disk) -> None:
        """Raise `DiskOpenError` unless `parent` is unchanged since the image was made on it."""
        locator = self.metadata.locator or {}
        linkages = [locator[key].lower() for key in LINKAGES if key in locator]
        found = "none"
        if isinstance(parent, VhdxImage):
            found = guid_text(parent.headers.current.data_write_guid)
        if found not in linkages:
            raise DiskOpenError(
                f"vhdx: the parent's data have the id {found}, the image was made on "
                f"{' or '.join(linkages) or 'none'}",
                "the parent has been written since, or another has taken its place",
            )

    # -- the table -------------------------------------------------------------------------------

    def _locate(self, block: int) -> int:
        index = block + (block >> self._chunk_shift)
        page = self._table.pages.get(index >> PAGE_SHIFT)
        if page is None:
            return 0
        entry = page[index & IN_PAGE]
        return entry & PLACE if entry & STATE >= State.FULLY_PRESENT else 0

    def _vacant(self, block: int) -> int:
        index = self._index(block)
        if index >> PAGE_SHIFT in self._table.pages:
            return 1
        ratio = self._layout.ratio
        return min(IN_PAGE + 1 - (index & IN_PAGE), ratio - block % ratio)

    def _index(self, block: int) -> int:
        return block + (block >> self._chunk_shift)

    def _set(self, index: int, place: int, state: State) -> None:
        self._table[index] = place | state
        self._clean = False

    async def _allocate(self, block: int) -> int:
        index = self._index(block)
        entry = self._table[index]
        anchor = entry & PLACE
        if entry & STATE == State.UNMAPPED and anchor and self._anchored:
            await self.store.write_zeroes(anchor, self.block_size)
            place = anchor
        else:
            place = await self._new_place(self.block_size)
        shows = self._differencing and entry & STATE == State.NOT_PRESENT
        if shows:
            await self._clear_bits(block)
            shows = self._table[index] & STATE == State.NOT_PRESENT  # not zeroed meanwhile
        self._set(index, place, State.PARTIALLY_PRESENT if shows else State.FULLY_PRESENT)
        return place

    async def _new_place(self, length: int) -> int:
        """Space that reads zero, at the end of what is used."""
        place, size = self._end, self.store.size
        end = place + length
        try:
            await self.store.grow(end)
        except InvalidInput as error:
            raise NoSpace(errno.ENOSPC, f"vhdx: {error}") from error
        if place < size:  # a block that a power cut undid may have been there
            await self.store.write_zeroes(place, min(end, size) - place, unmap=True)
        self._end = end
        return place

    async def _discard(self, block: int) -> bool:
        place = self._locate(block)
        self._set(self._index(block), place, State.UNMAPPED)
        await self.store.discard(place, self.block_size)
        return True

    def _zero_block(self, block: int) -> bool:
        self._set(self._index(block), 0, State.ZERO)
        return True

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Forget whole blocks, and make holes in others; nothing if the image is fixed."""
        self._check_change(sector, count)
        if self.unmap_behaviour is not Unmap.IGNORED:
            await super().unmap(sector, count, next_is_zero)

    # -- bitmaps ---------------------------------------------------------------------------------

    def _presence(self, block: int) -> Presence | None:
        state = self._table[self._index(block)] & STATE
        if state != State.PARTIALLY_PRESENT:
            return state != State.NOT_PRESENT
        unit, first = self._bits_of(block)
        return (self._units[unit], first) if unit in self._units else None

    def _bits_of(self, block: int) -> tuple[int, int]:
        """The unit that has the block's bits, and its first bit there."""
        bit = block * self._sectors
        return bit // (self._unit * 8), bit % (self._unit * 8)

    def _bitmap_place(self, page: int) -> int:
        """Where in the file this page of all bitmaps is."""
        chunk, number = divmod(page, MEBIBYTE // PAGE)
        return (self._table[self._layout.bitmap(chunk)] & PLACE) + number * PAGE

    async def _load(self, block: int) -> None:
        if self._presence(block) is None:
            await self._load_unit(self._bits_of(block)[0])

    async def _load_unit(self, unit: int) -> None:
        if unit not in self._units:
            place = self._bitmap_place(unit * self._unit // PAGE)
            data = await self.store.read(place, self._unit)
            self._units.setdefault(unit, bytearray(data))  # it may be here, and changed, by now

    async def _clear_bits(self, block: int) -> None:
        """Have a bitmap for the block, in memory too, that says that it holds nothing."""
        index = self._layout.bitmap(block >> self._chunk_shift)
        if self._table[index] & STATE != State.FULLY_PRESENT:
            self._set(index, await self._new_place(MEBIBYTE), State.FULLY_PRESENT)
        unit, first = self._bits_of(block)
        await self._load_unit(unit)
        size = self._sectors // 8
        if any(self._units[unit][first // 8 : first // 8 + size]):
            self._units[unit][first // 8 : first // 8 + size] = bytes(size)
            self._change_bits(unit, first, self._sectors)

    def _hold(self, block: int, first: int, count: int) -> None:
        if isinstance(held := self._presence(block), tuple):
            bits, start = held
            set_bits(bits, start + first, count)
            self._change_bits(self._bits_of(block)[0], start + first, count)

    def _change_bits(self, unit: int, first: int, count: int) -> None:
        base = unit * self._unit // PAGE
        pages = range(base + first // (8 * PAGE), base + (first + count - 1) // (8 * PAGE) + 1)
        self._changed_bits.update(pages)
        self._clean = False

    def _bits_page(self, page: int) -> tuple[int, bytes]:
        unit, inside = divmod(page * PAGE, self._unit)
        return self._bitmap_place(page), bytes(self._units[unit][inside : inside + PAGE])

    # -- stability -------------------------------------------------------------------------------

    async def _begin_changes(self) -> None:
        await self.headers.update(written=True)

    async def _end_changes(self) -> None:
        if self.headers.current.log_guid != NO_LOG:
            await self.headers.update(log_guid=NO_LOG)

    async def _commit(self) -> None:
        bits, self._changed_bits = self._changed_bits, set()
        entries, self._table.changed = self._table.changed, set()
        resized, self._size_page = self._size_page, None
        # A bitmap before the entry that sends readers there.
        pages = [self._bits_page(page) for page in sorted(bits)]
        pages += [self._table.page(number) for number in sorted(entries)]
        pages += [resized] if resized else []
        size = self.store.size
        try:
            await self.store.flush()
            for start in range(0, len(pages), MOST_PAGES):
                await self._write_pages(pages[start : start + MOST_PAGES], size)
        except BaseException:
            self._changed_bits |= bits
            self._table.changed |= entries
            self._size_page = self._size_page or resized
            raise
        self._clean = not (self._changed_bits or self._table.changed or self._size_page)

    async def _write_pages(self, pages: list[tuple[int, bytes]], size: int) -> None:
        await self._log.append(pages, size)
        if self.headers.current.log_guid != self._log.guid:
            await self.headers.update(log_guid=self._log.guid)
        for offset, page in pages:
            await self.store.write(offset, [memoryview(page)])
        # The next entry takes this one's place. Who flushes then, and is told that writes are lost,
        # could not say that these were among them.
        await self.store.flush()

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Change the capacity, stably, as far as the table has room.

        Raises `InvalidInput` where it has none, and for a differencing image that would shrink.
        """
        size, before = sector_count * self.sector_size, self._bytes
        if self.read_only:
            raise ReadOnly(self.kind)
        if not 0 < size <= MOST_SIZE:
            raise InvalidInput(f"vhdx: no disk has {size} bytes")
        if self._differencing and size < before:
            raise InvalidInput("vhdx: a differencing image cannot shrink: its parent would show")
        layout = replace(self._layout, disk_size=size)
        if layout.entries * 8 > self._table.region.length:
            raise InvalidInput(f"vhdx: the block table has no room for {size} bytes")
        inside = self.metadata.size_at % PAGE
        if inside > PAGE - SIZE.size:
            raise InvalidInput("vhdx: the size lies where no log entry can change it")
        await self._start()
        self._set_size(min(size, before))
        try:
            await self._forget(min(size, before))
            await self._table.load(self.store, layout.entries)
            self._table.clear_from(min(layout.entries, self._layout.entries))
            page = bytearray(await self.store.read(self.metadata.size_at - inside, PAGE))
            SIZE.pack_into(page, inside, size)
            self._size_page = (self.metadata.size_at - inside, bytes(page))
            self._clean = False
            await self.flush()
        except BaseException:
            self._set_size(before)
            if self._size_page:  # the log may have the new size, which must not come true
                SIZE.pack_into(page, inside, before)
                self._size_page = (self.metadata.size_at - inside, bytes(page))
            raise
        self._layout = layout
        self._set_size(size)
        self._resized()

    async def _forget(self, size: int) -> None:
        """Give back what lies from byte `size` on. A block that is cut reads zero from there."""
        block, inside = divmod(size, self.block_size)
        if inside:
            if place := self._locate(block):
                await self.store.write_zeroes(place + inside, self.block_size - inside, unmap=True)
            block += 1
        start = block * self.block_size
        for later, _, _ in self._parts(start, max(0, self._layout.disk_size - start)):
            if place := self._locate(later):
                await self.store.discard(place, self.block_size)

    def _set_size(self, size: int) -> None:
        self._bytes = size
        self.sector_count = size // self.sector_size

    # -- the rest --------------------------------------------------------------------------------

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Its type, its blocks, its parent, and whether its log was replayed."""
        kind = "fixed" if self.metadata.keeps_blocks else "dynamic"
        found: dict[str, str | int | bool] = {
            "type": "differencing" if self._differencing else kind,
            "block_size": self.block_size,
        }
        if self.parent is not None:
            found["parent"] = self.parent.paths[0]
        if self.replayed:
            found["log"] = "replayed in memory" if self.read_only else "replayed"
        return found


def open_vhdx(disk: Disk, *, read_only: bool = False) -> VhdxImage:
    """The VHDX image that `disk` holds, which is closed with it. Raises `DiskOpenError`.

    A log that a crash has left is replayed; in memory, if the image is opened read-only.
    """
    try:
        return run(_open(disk, read_only or disk.read_only))
    except DiskError as error:
        raise DiskOpenError(f"vhdx: {error}") from error


async def _open(disk: Disk, read_only: bool) -> VhdxImage:
    store = Store(disk)
    headers = await read_headers(store)
    if replayed := headers.current.log_guid != NO_LOG:
        replay = await find_replay(store, headers.log, headers.current.log_guid)
        if read_only:
            size = -(-max(replay.size, store.size) // disk.sector_size) * disk.sector_size
            memory = RamLayer(size, sector_size=disk.sector_size)
            store = Store(LayeredDisk([memory, DiskLayer(disk)]))
        await replay.apply(store)
        if not read_only:
            await headers.update(log_guid=NO_LOG)
    regions = await read_regions(store, headers.log)
    found = await read_metadata(store, regions.metadata)
    layout = Layout.of(found)
    if layout.entries * 8 > regions.table.length:
        raise DiskOpenError(
            f"vhdx: a block table of {regions.table.length} bytes for {layout.blocks} blocks"
        )
    table = Table(regions.table)
    await table.load(store, layout.entries)
    tables = [Region(0, MEBIBYTE), headers.log, regions.table, regions.metadata]
    places = find_places(table, layout, tables, store.size)
    image = VhdxImage(store, headers, found, table, places, tables, read_only=read_only)
    image.replayed = replayed
    if image.parent is not None and not image.parent.paths:
        raise DiskOpenError("vhdx: a differencing image that does not say of which parent")
    return image


def _paths(locator: dict[str, str]) -> tuple[str, ...]:
    """Where the parent may be. Windows' drives and volumes mean nothing here."""
    texts = [locator.get(key, "") for key in ("relative_path", "absolute_win32_path")]
    paths = [text.replace("\\", "/").removeprefix("./") for text in texts]
    return tuple(path for path in paths if path and ":" not in path and path[:2] != "//")
