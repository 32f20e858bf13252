"""Making new VHDX images."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.store import Store
from drivebay.disk.formats.vhdx.headers import NO_LOG, Headers, Region, Regions, region_table
from drivebay.disk.formats.vhdx.image import VhdxImage
from drivebay.disk.formats.vhdx.metadata import (
    LINKAGE,
    Metadata,
    check_metadata,
    metadata_region,
)
from drivebay.disk.formats.vhdx.structs import (
    IDENTIFIER,
    MEBIBYTE,
    REGIONS_AT,
    Header,
    State,
    guid_text,
)
from drivebay.disk.formats.vhdx.table import Layout
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["BLOCK_SIZE", "create"]

BLOCK_SIZE: Final = 2 * MEBIBYTE
CREATOR: Final = "drivebay".encode("utf-16-le")
METADATA: Final = Region(2 * MEBIBYTE, MEBIBYTE)
TABLE_AT: Final = 3 * MEBIBYTE


def create(
    disk: Disk,
    size: int,
    *,
    block_size: int = BLOCK_SIZE,
    sector_size: int = 512,
    physical_sector_size: int = 4096,
    fixed: bool = False,
    parent: Disk | None = None,
    parent_path: str = "",
    disk_id: bytes | None = None,
) -> None:
    """Make `disk` an image of a disk of `size` bytes; what it held is lost. `disk` stays open.

    A disk that is too small is grown, so it may be a file of one sector. With `parent`, which is
    an open VHDX image, and the path that leads to it, relative to where the image will be, the
    image is a differencing one; its sectors must be those of the parent. A `fixed` image has a
    place for each block from the start.

    Raises `DiskOpenError`.
    """
    locator = None
    if (parent is None) != (not parent_path):
        raise DiskOpenError("vhdx: a differencing image, and no other, has a parent and its path")
    if parent is not None:
        if not isinstance(parent, VhdxImage) or fixed:
            raise DiskOpenError("vhdx: a differencing image stands on another VHDX image")
        if parent.sector_size != sector_size:
            raise DiskOpenError(f"vhdx: the parent has sectors of {parent.sector_size} bytes")
        key = "absolute_win32_path" if parent_path.startswith("/") else "relative_path"
        locator = {
            LINKAGE: guid_text(parent.headers.current.data_write_guid),
            key: parent_path.replace("/", "\\"),
        }
    found = Metadata(
        block_size,
        size,
        disk_id or os.urandom(16),
        sector_size,
        max(physical_sector_size, sector_size),
        fixed,
        locator,
    )
    check_metadata(found)
    try:
        run(_create(Store(disk), found))
    except DiskError as error:
        raise DiskOpenError(f"vhdx: cannot create: {error}") from error


async def _create(store: Store, found: Metadata) -> None:
    layout = Layout.of(found)
    length = -(-layout.entries * 8 // MEBIBYTE) * MEBIBYTE
    regions = Regions(Region(TABLE_AT, length), METADATA)
    blocks = regions.table.end
    before, end = (
        store.size,
        blocks + (layout.blocks * found.block_size if found.keeps_blocks else 0),
    )
    await store.grow(end)
    await store.write_zeroes(0, min(before, end), unmap=True)
    await store.write(METADATA.offset, [memoryview(metadata_region(found))])
    if found.keeps_blocks:
        await _fill_table(store, layout, blocks)
    for offset in REGIONS_AT:
        await store.write(offset, [memoryview(region_table(regions))])
    header = Header(
        b"head",
        0,
        0,
        os.urandom(16),
        os.urandom(16),
        NO_LOG,
        0,
        1,
        MEBIBYTE,
        MEBIBYTE,
    )
    headers = Headers(store, header, None)
    await headers.update()
    await headers.update()
    await store.write(0, [memoryview(IDENTIFIER + CREATOR)])
    await store.flush()


async def _fill_table(store: Store, layout: Layout, blocks: int) -> None:
    """Give each block a place, one after the other from `blocks` on."""
    size, offset = layout.block_size, TABLE_AT
    for first in range(0, layout.blocks, layout.ratio):
        last = min(first + layout.ratio, layout.blocks)
        places = range(blocks + first * size, blocks + last * size, size)
        entries = array("Q", (place | State.FULLY_PRESENT for place in places))
        await store.write(offset, [memoryview(entries.tobytes())])
        offset += 8 * (layout.ratio + 1)
