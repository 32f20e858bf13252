"""Making new VHD images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.store import Store
from drivebay.disk.formats.vhd.footer import (
    FOOTER_SIZE,
    MAX_DYNAMIC,
    SECTOR,
    DiskType,
    Footer,
)
from drivebay.disk.formats.vhd.header import (
    ABSOLUTE,
    BLOCK_SIZE,
    HEADER_SIZE,
    MOST_BLOCKS,
    MOST_LOCATOR,
    RELATIVE,
    DynamicHeader,
    Locator,
    table_size,
)
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["create"]

LOCATOR_AT = FOOTER_SIZE + HEADER_SIZE
TABLE_AT = 2 * MOST_LOCATOR  # a whole sector of a 4K disk, after what may name the parent


def create(
    disk: Disk,
    size: int,
    *,
    kind: DiskType = DiskType.DYNAMIC,
    block_size: int = BLOCK_SIZE,
    parent: Disk | None = None,
    parent_path: str = "",
    unique_id: bytes | None = None,
) -> None:
    """Make `disk` an image of a disk of `size` bytes; what it held is lost. `disk` stays open.

    A disk that is too small is grown, so it may be a file of one sector. A differencing image
    needs its `parent`, which is an open VHD image, and the path that leads to it, relative to
    where the image will be. `block_size` is a power of two.

    Raises `DiskOpenError`.
    """
    if not 0 < size <= MAX_DYNAMIC or size % SECTOR:
        raise DiskOpenError(
            f"vhd: no image has {size} bytes", "a multiple of 512, of at most 2040G; VHDX has more"
        )
    if block_size & (block_size - 1) or not 4096 <= block_size <= 256 << 20:
        raise DiskOpenError(f"vhd: blocks of {block_size} bytes: not a power of two")
    if size > block_size * MOST_BLOCKS:
        raise DiskOpenError(f"vhd: {size} bytes in blocks of {block_size}", "take larger blocks")
    differencing = kind == DiskType.DIFFERENCING
    if differencing != (parent is not None) or differencing != bool(parent_path):
        raise DiskOpenError("vhd: a differencing image, and no other, has a parent and its path")
    if parent is not None and parent.disk_id is None:
        raise DiskOpenError("vhd: the parent has no id, so it is no VHD image")
    try:
        if kind == DiskType.FIXED:
            run(_create_fixed(Store(disk), Footer.make(size, kind, unique_id=unique_id)))
        else:
            footer = Footer.make(size, kind, FOOTER_SIZE, unique_id)
            header = DynamicHeader.make(TABLE_AT, -(-size // block_size), block_size)
            run(_create_dynamic(Store(disk), footer, header, parent, parent_path))
    except DiskError as error:
        raise DiskOpenError(f"vhd: cannot create: {error}") from error


async def _create_fixed(store: Store, footer: Footer) -> None:
    before, size = store.size, footer.capacity
    await store.grow(size + FOOTER_SIZE)
    await store.write_zeroes(0, min(before, store.size), unmap=True)
    await store.write(store.size - FOOTER_SIZE, footer.buffers())
    await store.flush()


async def _create_dynamic(
    store: Store, footer: Footer, header: DynamicHeader, parent: Disk | None, path: str
) -> None:
    length = table_size(header.max_table_entries)
    await store.grow(TABLE_AT + length + FOOTER_SIZE)
    # Until the first footer is written this is no image.
    await store.write_zeroes(0, TABLE_AT)
    if parent is not None:
        header, names = _named(header, parent, path)
        await store.write(LOCATOR_AT, [memoryview(names)])
    await store.write(FOOTER_SIZE, header.buffers())
    for start in range(0, length, 1 << 20):
        chunk = memoryview(b"\xff" * min(1 << 20, length - start))
        await store.write(TABLE_AT + start, [chunk])
    await store.write(store.size - FOOTER_SIZE, footer.buffers())
    await store.flush()
    await store.write(0, footer.buffers())
    await store.flush()


def _named(header: DynamicHeader, parent: Disk, path: str) -> tuple[DynamicHeader, bytes]:
    """The header of an image on `parent`, and the sectors with the path."""
    code, text = (ABSOLUTE, path) if path.startswith("/") else (RELATIVE, ".\\" + path)
    data = text.replace("/", "\\").encode("utf-16-le")
    if len(data) > MOST_LOCATOR:
        raise DiskOpenError(f"vhd: a parent's path of {len(data)} bytes", "at most 2048 characters")
    space = -(-len(data) // SECTOR) * SECTOR
    locator = Locator(code, space, len(data), 0, LOCATOR_AT)
    name = path.rpartition("/")[2].encode("utf-16-be")[:510]
    # A time stamp goes into the parent's footer when it is made, and never again.
    stamp = getattr(getattr(parent, "footer", None), "time_stamp", 0)
    header = replace(
        header,
        parent_unique_id=parent.disk_id or bytes(16),
        parent_time_stamp=stamp,
        parent_unicode_name=name.ljust(512, b"\0"),
        parent_locators=locator.pack().ljust(192, b"\0"),
    )
    return header.sealed(), data.ljust(space, b"\0")
