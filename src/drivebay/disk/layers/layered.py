"""A disk made of layers: a sector is read from the topmost that holds it and written to the top."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.disk.buffers import cut, scatter
from drivebay.disk.contract import (
    MAX_BYTES,
    MOST_EXTENTS,
    Buffers,
    Disk,
    Extent,
    Operation,
    Unmap,
    byte_length,
)
from drivebay.disk.errors import DiskError, IllegalBlock, InvalidInput, ReadOnly
from drivebay.disk.layers import stack
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.index import MergedIndex, find_runs
from drivebay.disk.layers.layer import NOTHING, CacheLayer, Layer
from drivebay.disk.layers.stack import Place
from drivebay.suspend import DONE, Gate, together

if TYPE_CHECKING:
    from drivebay.disk.reservations import Reservations

__all__ = ["LayeredDisk"]

log = logging.getLogger(__name__)

CHUNK: Final = 1 << 20
"""Bytes that a cache is given at once."""
SPAN: Final = 1 << 22
"""Sectors whose layers are looked up at once."""


class _Part(NamedTuple):
    """Sectors, the layer that shows them, and the caches above it that lack them."""

    sector: int
    run: int
    layer: Layer
    missed: tuple[CacheLayer, ...]


class LayeredDisk(Disk):
    """`layers`, top first. Its size is the top layer's; what no layer holds reads zero.

    A lower layer shows at most as many sectors as the disk ever had while it was part of it: what
    a shrink cut off does not come back when the disk grows. Nobody else may write to the layers.

    `visible` says how many sectors of each showed at most before.

    Raises `LayerError` if the layers make no disk, or if it should be writable and cannot be.
    """

    kind = "layered"

    def __init__(
        self,
        layers: Sequence[Layer | Place],
        *,
        read_only: bool = False,
        visible: Sequence[int] = (),
    ) -> None:
        super().__init__()
        places = [layer if isinstance(layer, Place) else Place(layer) for layer in layers]
        stack.check(places, read_only)
        written = stack.written(places)
        top = written[0]
        self.sector_size = top.sector_size
        self.physical_sector_size = top.physical_sector_size
        self.read_only = self._opened_read_only = read_only
        self.volatile_cache = any(layer.volatile_cache for layer in written)
        self.persistent = any(layer.persistent for layer in written)
        self.unmap_behaviour = stack.unmap_behaviour(written)
        self.optimal_unmap_sectors = max(layer.optimal_unmap_sectors for layer in written)
        self.disk_id = next((place.layer.disk_id for place in places if place.layer.disk_id), None)
        self._shift = self.sector_size.bit_length() - 1

        self._gate = Gate()  # of changes, and of those who want none under way
        self._at_once = 0  # changes that never were inside

        self._visible = list(visible) or [place.layer.sector_count for place in places]
        self._arrangement = 0
        self._merging = False
        self._failed_caches: set[CacheLayer] = set()
        self._arrange(tuple(places))
        self._leave_top = top.on_resize(self._top_resized)

    @classmethod
    def over(cls, top: Layer | Place, below: Disk, *, read_only: bool = False) -> LayeredDisk:
        """`top` over `below`, or over the layers of `below` if it is layered itself."""
        if not isinstance(below, LayeredDisk):
            return cls([top, DiskLayer(below)], read_only=read_only)
        places = [top, *_not_written(below._places)]
        disk = cls(places, read_only=read_only, visible=[MAX_BYTES, *below._visible])
        below._leave_top()
        return disk

    def _arrange(self, places: tuple[Place, ...]) -> None:
        """Take `places`, of which `_visible` sectors show, and find out who changes and who not."""
        self._places = places
        self.layers: Sequence[Layer] = tuple(place.layer for place in places)
        """The layers, top first."""
        visible = self._visible
        self.sector_count = visible[0] = self.layers[0].sector_count
        visible[:] = accumulate(visible, min)
        self._written = stack.written(places)
        # The guest was told once what an unmap does, and whether a write is stable. Of two layers
        # neither may keep what the other drops.
        self._must_zero = stack.unmap_behaviour(self._written) is not Unmap.ZEROES and (
            self.unmap_behaviour is Unmap.ZEROES or len(self._written) > 1
        )
        volatile = any(layer.volatile_cache for layer in self._written)
        self._stable = volatile and not self.volatile_cache
        caches = [number for number, place in enumerate(places) if place.read_cache]
        self._writes_to_caches = bool(caches) and caches[0] < len(self._written)
        changing = max(len(self._written), *(number + 1 for number in caches), 1)
        self._changing = list(zip(places[:changing], visible[:changing], strict=True))
        self._frozen = MergedIndex(self.layers[changing:], visible[changing:])
        self._top_runs, self._top_read = self.layers[0].runs, self.layers[0].read
        self._is_plain = changing == 1 and not caches
        top = self.layers[0]
        # A layer that is a disk of its own, and nothing under it: it can be read as what it is.
        self._only = top.below if len(places) == 1 and isinstance(top, DiskLayer) else None
        for number, layer in enumerate(self._written, 1):
            layer.stand_on(partial(self._read_from, number))
        self._arrangement += 1

    # -- reading ---------------------------------------------------------------------------------

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Fill `buffers` from the layers."""
        if self._only is not None:
            return self._only.read(sector, buffers)
        return self._read(sector, buffers)

    async def _read(self, sector: int, buffers: Buffers) -> None:
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        count = length >> self._shift
        if sector < 0 or sector + (count or 1) > self.sector_count:
            raise IllegalBlock(sector, count, self.sector_count)
        if not count:
            return
        if self._is_plain:  # most reads have one layer as their source
            runs = self._top_runs(sector, count)
            if len(runs) == 1:
                if runs[0][2]:
                    await self._top_read(sector, buffers)
                    return
                if layer := self._frozen.owner(sector, count):
                    await layer.read(sector, buffers)
                    return
        await self._read_from(0, sector, buffers)

    async def _read_from(self, first: int, sector: int, buffers: Buffers) -> None:
        """Fill `buffers` with what the layers from `first` on show."""
        parts = await self._parts(sector, byte_length(buffers) >> self._shift, first)
        if len(parts) == 1:
            await self._read_part(parts[0], buffers)
            return
        await together(
            self._read_part(
                part,
                cut(
                    buffers,
                    (part.sector - sector) << self._shift,
                    (part.sector - sector + part.run) << self._shift,
                ),
            )
            for part in parts
        )

    async def _parts(self, sector: int, count: int, first: int = 0) -> list[_Part]:
        """The range, by what the layers from `first` on show, in order."""
        parts: list[_Part] = []
        missing: list[tuple[int, int, tuple[CacheLayer, ...]]] = [(sector, count, ())]
        for place, visible in self._changing[first:]:
            asked, missing = missing, []
            for start, run, missed in asked:
                seen = max(0, min(run, visible - start))
                if seen < run:
                    parts.append(_Part(start + seen, run - seen, NOTHING, ()))
                further = missed
                if place.read_cache and isinstance(place.layer, CacheLayer):
                    further = (*missed, place.layer)
                for at, size, present in await find_runs(place.layer, start, seen):
                    if present:
                        parts.append(_Part(at, size, place.layer, missed))
                    else:
                        missing.append((at, size, further))
        for start, run, missed in missing:
            for at, size, layer in await self._frozen.owners(start, run):
                parts.append(_Part(at, size, layer, () if layer is NOTHING else missed))
        parts.sort()
        return parts

    async def _read_part(self, part: _Part, buffers: Buffers) -> None:
        if part.missed:
            await self._read_missed(part, buffers)
        else:
            await part.layer.read(part.sector, buffers)

    async def _read_missed(self, part: _Part, buffers: Buffers) -> None:
        """Read what caches lack, and give it to them: not from `buffers`, which the guest may have
        changed by then.
        """
        still_right = self._arrangement, self._changes, self._gate.inside
        for first in range(0, part.run << self._shift, CHUNK):
            wanted = cut(buffers, first, min(first + CHUNK, part.run << self._shift))
            bounce = memoryview(bytearray(byte_length(wanted)))
            sector = part.sector + (first >> self._shift)
            await part.layer.read(sector, [bounce])
            scatter(wanted, bounce)
            for cache in part.missed:
                # What a resize has cut off, or a change has dropped since, must not come back.
                if self._arrangement != still_right[0]:
                    return
                if self._writes_to_caches and still_right[1:] != (self._changes, 0):
                    return
                await self._put(cache, sector, bounce)

    async def _put(self, cache: CacheLayer, sector: int, data: memoryview) -> None:
        try:
            await cache.put(sector, [data])
        except DiskError as error:
            log.log(
                logging.DEBUG if cache in self._failed_caches else logging.WARNING,
                "%s: what was read is not kept: %s",
                cache.kind,
                error,
            )
            self._failed_caches.add(cache)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What the layers hold that show."""
        self.check_range(sector, count)
        found: list[Extent] = []
        for part in await self._parts(sector, min(count, SPAN)) if count else ():
            extents = await part.layer.extents(part.sector, part.run)
            found += extents
            if sum(extent.count for extent in extents) < part.run or len(found) >= MOST_EXTENTS:
                break
        return found

    # -- changing --------------------------------------------------------------------------------

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write to the top layer, and on through those that write through."""
        if self.read_only or len(self._written) != 1 or self._gate.closed:
            return self._write(sector, buffers, fua)
        operation = self._written[0].write(sector, buffers, fua or self._stable)
        if operation is DONE:  # most writes to one layer need nobody to wait for them
            self._at_once += 1
            return DONE
        return self._write(sector, buffers, fua, operation, self._arrangement)

    async def _write(
        self,
        sector: int,
        buffers: Buffers,
        fua: bool,
        operation: Operation = DONE,
        arrangement: int = -1,
    ) -> None:
        """`operation`, if the layers are still those that it was made for."""
        if self.read_only:
            self._check_change(sector, byte_length(buffers) >> self._shift)
        async with self._gate:
            if self._arrangement == arrangement:
                await operation
                return
            operation.close()
            await self._written[0].write(sector, buffers, fua or self._stable)
            for number in range(1, len(self._written)):
                await self._write_lower(number, sector, buffers, fua or self._stable)

    async def _write_lower(self, number: int, sector: int, buffers: Buffers, fua: bool) -> None:
        seen = self._visible[number] - sector << self._shift
        if seen > 0:
            await self._written[number].write(sector, cut(buffers, 0, seen), fua)

    async def flush(self) -> None:
        """Flush every layer that is written, the lowest first: what an upper one has dropped in its
        favour must be there.
        """
        if self.read_only:
            return
        async with self._gate:
            await self._flush()

    async def _flush(self) -> None:
        for layer in reversed(self._written):
            await layer.flush()

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap in the layers that are written; one that promised zeroes gives them."""
        if self.unmap_behaviour is Unmap.IGNORED:
            self._check_change(sector, count)
            return
        if self._must_zero:
            await self.write_zeroes(sector, count, unmap=True)
            return
        await self._change(
            sector,
            count,
            lambda layer, start, run, next_is_zero: layer.unmap(start, run, next_is_zero),
        )

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero in the layers that are written."""
        await self._change(
            sector,
            count,
            lambda layer, start, run, next_is_zero: layer.write_zeroes(
                start, run, fua or self._stable, unmap, next_is_zero
            ),
        )

    async def _change(
        self, sector: int, count: int, change: Callable[[Layer, int, int, bool], Operation]
    ) -> None:
        """Change the range in each layer that is written, the lowest first: what an upper one drops
        must be zero below by then.
        """
        self._check_change(sector, count)
        async with self._gate:
            self._check_change(sector, count)  # a resize may have come before
            for number in reversed(range(len(self._written))):
                seen = min(count, self._visible[number] - sector)
                async for start, run, next_is_zero in self.spans(sector, seen, number + 1):
                    await change(self._written[number], start, run, next_is_zero)
            if self._stable:
                await self._flush()

    def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self.kind)

    async def spans(
        self, sector: int, count: int, below: int
    ) -> AsyncIterator[tuple[int, int, bool]]:
        """The range, cut by whether the layers from number `below` on read zero, which it says."""
        start, run, empty = sector, 0, True
        for base in range(sector, sector + count, SPAN):
            for part in await self._parts(base, min(SPAN, sector + count - base), below):
                if run and empty != (part.layer is NOTHING):
                    yield start, run, empty
                    start, run = part.sector, 0
                empty = part.layer is NOTHING
                run += part.run
        if run:
            yield start, run, empty

    # -- turns -----------------------------------------------------------------------------------

    def quiet(self) -> AbstractAsyncContextManager[None]:
        """``async with disk.quiet():`` no change is under way; what comes waits. Reads go on."""
        return self._gate.alone()

    @property
    def _changes(self) -> int:
        """How many have ever begun."""
        return self._gate.entered + self._at_once

    async def protect(self, protected: bool) -> None:
        """Have whatever would change it fail with `ReadOnly` from now on, or no more. What was
        written before is flushed. Raises what that raises, and `InvalidInput` of a disk that was
        opened to be read.
        """
        if self._opened_read_only:
            raise InvalidInput("it was opened read-only")
        async with self.quiet():
            if protected and not self.read_only:
                await self._flush()
            self.read_only = protected

    # -- layers that come and go -----------------------------------------------------------------

    async def push(self, top: Layer) -> None:
        """Put `top` over the layers, which are flushed and never written again.

        Operations under way end first; those that come wait for that.

        Raises `InvalidInput` if it does not fit, and what the flush raises: then nothing happened.
        """
        async with self.quiet():
            self._check_not_merging()
            if reason := self._misfit(top):
                raise InvalidInput(f"{top.kind}: {reason}")
            await self._flush()
            self._leave_top()
            self._visible = [top.sector_count, *self._visible]
            self._arrange((Place(top), *_not_written(self._places)))
            self._leave_top = top.on_resize(self._top_resized)

    def _misfit(self, top: Layer) -> str:
        if self.read_only or top.read_only:
            return "a disk that is read-only needs no layer for writes"
        if (top.sector_size, top.sector_count) != (self.sector_size, self.sector_count):
            return (
                f"{top.sector_count} sectors of {top.sector_size} bytes over a disk of "
                f"{self.sector_count} of {self.sector_size}"
            )
        if self.persistent and not top.persistent:
            return "would lose what the disk has promised to keep"
        return ""

    async def begin_merge(self) -> tuple[Layer, Layer]:
        """From now on write to the second layer too. The top one, and the second. Only while it is
        `quiet`.

        Raises `InvalidInput` where that cannot be, and what resizing the second layer raises.
        """
        self._check_not_merging()
        if self.read_only or len(self._places) < 2 or len(self._written) > 1:
            raise InvalidInput("there is no layer to merge the top one into")
        top, into = self.layers[:2]
        if into.read_only:
            raise InvalidInput(f"{into.kind}: is read-only")
        if self._visible[1] < into.sector_count:  # what a shrink has hidden must not come back
            await into.resize(self._visible[1])
        if into.sector_count < self.sector_count:
            await into.resize(self.sector_count)
        self._visible[1] = into.sector_count
        self._merging = True
        self._arrange((Place(top, write_through=True), *self._places[1:]))
        return top, into

    def end_merge(self, merged: bool) -> None:
        """Write to one layer again: to the second and without the top one if they are `merged`.
        Only while it is `quiet`.

        Reads under way may still use the old top.
        """
        self._merging = False
        if not merged:
            self._arrange((Place(self.layers[0]), *self._places[1:]))
            return
        self._leave_top()
        del self._visible[0]
        self._arrange(self._places[1:])
        self._leave_top = self.layers[0].on_resize(self._top_resized)

    def _check_not_merging(self) -> None:
        if self._merging:
            raise InvalidInput("the top layer is being merged into the next")

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Resize the top layer."""
        if self.read_only:
            raise ReadOnly(self.kind)
        async with self._gate:
            self._check_not_merging()
            await self.layers[0].resize(sector_count)

    async def refresh(self) -> None:
        """Look at the top layer's medium again."""
        await self.layers[0].refresh()

    def _top_resized(self, sector_count: int) -> None:
        self._arrange(self._places)
        self._resized()

    # -- the rest --------------------------------------------------------------------------------

    async def eject(self) -> None:
        """Eject the top layer."""
        await self.layers[0].eject()

    @property
    def reservations(self) -> Reservations | None:
        """The top layer's."""
        return self.layers[0].reservations

    @property
    def inner(self) -> Sequence[Disk]:
        """The layers; of a disk as a layer, the disk."""
        return tuple(
            layer.below if isinstance(layer, DiskLayer) else layer for layer in self.layers
        )

    @property
    def allocated_bytes(self) -> int | None:
        """What the top layer holds."""
        return self.layers[0].allocated_bytes

    def close(self) -> None:
        """Close every layer."""
        for layer in self.layers:
            layer.close()


def _not_written(places: Sequence[Place]) -> list[Place]:
    """The same under another layer that takes the writes."""
    return [Place(place.layer, place.read_cache) for place in places]
