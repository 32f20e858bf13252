"""Putting a layer on a running disk, merging one into the next, and moving one to another base."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.disk.layers.index import find_runs
from drivebay.disk.layers.layer import Layer
from drivebay.disk.layers.layered import LayeredDisk

__all__ = ["commit", "rebase", "snapshot"]

CHUNK: Final = 1 << 20
"""Bytes that are copied at once; for as long a running disk's changes wait."""
COMPARED: Final = 1 << 16
"""Bytes that are compared at once, before sectors are."""
SPAN: Final = 1 << 22
"""Sectors of which a layer is asked at once what it holds."""


async def snapshot(disk: LayeredDisk, top: Layer) -> None:
    """Put `top`, which holds nothing yet, over the layers of a disk that may be in use.

    Changes under way end in the old top, which is flushed and never changes again; later ones go to
    the new.

    Raises `InvalidInput` if it does not fit, and what the flush raises: then nothing happened.
    """
    await disk.push(top)


async def commit(disk: LayeredDisk) -> Layer:
    """Merge the top layer of a disk that may be in use into the second, and leave it out.

    What is written meanwhile goes to both. Each mebibyte that is copied keeps the disk's changes
    waiting for that long; reads go on. Returns the layer that was left out, for the caller to close
    when no read can be under way any more, or to drop.

    Raises `InvalidInput` if there is no second layer or it cannot be written, and any `DiskError`:
    then the disk is as it was, but for the second layer, which the top still hides.
    """
    async with disk.quiet():
        top, into = await disk.begin_merge()
    try:
        async for start, count in _present(top):
            async with disk.quiet():
                await _copy(disk, top, into, start, count)
        async with disk.quiet():
            await into.flush()
            disk.end_merge(merged=True)
    except BaseException:
        async with disk.quiet():
            disk.end_merge(merged=False)
        raise
    return top


async def _copy(disk: LayeredDisk, top: Layer, into: Layer, sector: int, count: int) -> None:
    """Copy what `top` still holds of the range."""
    for start, run, present in await find_runs(top, sector, count):
        at, end = start, start + run
        while present and at < end:
            for extent in await top.extents(at, end - at):
                if extent.zero:
                    async for first, size, empty in disk.spans(extent.sector, extent.count, 2):
                        await into.write_zeroes(first, size, unmap=True, next_is_zero=empty)
                else:
                    data = memoryview(bytearray(extent.count * top.sector_size))
                    await top.read(extent.sector, [data])
                    await into.write(extent.sector, [data])
                at = extent.sector + extent.count


async def _present(layer: Layer) -> AsyncIterator[tuple[int, int]]:
    """What `layer` holds, by pieces of at most `CHUNK` bytes."""
    async for start, run, present in _runs(layer):
        step = CHUNK // layer.sector_size
        for at in range(start, start + run, step) if present else ():
            yield at, min(step, start + run - at)


async def _runs(layer: Layer) -> AsyncIterator[tuple[int, int, bool]]:
    for base in range(0, layer.sector_count, SPAN):
        for found in await find_runs(layer, base, min(SPAN, layer.sector_count - base)):
            yield found


async def rebase(layer: Layer, old: Disk, new: Disk) -> None:
    """Let `layer`, which stood on `old`, show the same over `new`; none of them is in use.

    Where it holds nothing and the two differ, it takes the sectors of `old`. Past the end of
    either is zero. Raises any `DiskError`: then it is still right over `old`, and may be tried
    again.
    """
    if not layer.sector_size == old.sector_size == new.sector_size:
        raise InvalidInput(
            f"sectors of {layer.sector_size}, {old.sector_size} and {new.sector_size} bytes"
        )
    async for start, run, present in _runs(layer):
        at, end = start, start + run
        while not present and at < end:
            if alike := await _both_zero(old, new, at, end):
                at += alike
                continue
            count = min(COMPARED // layer.sector_size, end - at)
            before, after = await _content(old, at, count), await _content(new, at, count)
            if before != after:
                await _take_different(layer, at, before, after)
            at += count
    await layer.flush()


async def _both_zero(old: Disk, new: Disk, sector: int, end: int) -> int:
    """How many sectors from there on are known to be zero in both."""
    alike = end - sector
    for disk in (old, new):
        inside = min(end, disk.sector_count) - sector
        if inside > 0:
            extent = (await disk.extents(sector, inside))[0]
            alike = min(alike, extent.count) if extent.zero else 0
    return alike


async def _content(disk: Disk, sector: int, count: int) -> memoryview:
    data = memoryview(bytearray(count * disk.sector_size))
    inside = max(0, min(count, disk.sector_count - sector))
    if inside:
        await disk.read(sector, [data[: inside * disk.sector_size]])
    return data


async def _take_different(layer: Layer, sector: int, before: memoryview, after: memoryview) -> None:
    """Write each run of sectors that differ."""
    size = layer.sector_size
    first = None
    for at in range(0, len(before) + size, size):
        if at < len(before) and before[at : at + size] != after[at : at + size]:
            first = at if first is None else first
        elif first is not None:
            await layer.write(sector + first // size, [before[first:at]])
            first = None
