"""Opening a VHD image, whatever its type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.store import Store
from drivebay.disk.formats.vhd.dynamic import DynamicVhd
from drivebay.disk.formats.vhd.fixed import FixedVhd
from drivebay.disk.formats.vhd.footer import FOOTER_SIZE, DiskType, Footer, parse_footer
from drivebay.disk.formats.vhd.header import HEADER_SIZE, parse_header
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.formats.chain import Image

__all__ = ["find_footer", "open_vhd"]


def open_vhd(disk: Disk, *, read_only: bool = False) -> Image:
    """The VHD image that `disk` holds, which is closed with it. Raises `DiskOpenError`."""
    try:
        return run(_open(Store(disk), read_only or disk.read_only))
    except DiskError as error:
        raise DiskOpenError(f"vhd: {error}") from error


async def _open(store: Store, read_only: bool) -> Image:
    footer, footer_at = await find_footer(store)
    if footer.disk_type == DiskType.FIXED:
        return FixedVhd(store, footer, read_only=read_only)
    end = store.size if footer_at is None else footer_at
    if not FOOTER_SIZE <= footer.data_offset <= end - HEADER_SIZE:
        raise DiskOpenError(f"vhd: a header at {footer.data_offset}, of an image of {end} bytes")
    header = parse_header(await store.read(footer.data_offset, HEADER_SIZE), footer, end)
    return await DynamicVhd.open(store, footer, header, footer_at=footer_at, read_only=read_only)


async def find_footer(store: Store) -> tuple[Footer, int | None]:
    """The footer, and where it is. A dynamic image may have lost the last one: then None.

    Raises `DiskOpenError` and `DiskError`.
    """
    size = store.size
    at = size - FOOTER_SIZE
    if at < 0:
        raise DiskOpenError(f"vhd: an image of {size} bytes has no footer")
    try:
        return parse_footer(await store.read(at, FOOTER_SIZE), size), at
    except DiskOpenError:
        try:
            footer = parse_footer(await store.read(0, FOOTER_SIZE), size)
        except DiskOpenError:
            footer = None
        # The first sector of a fixed image is the guest's.
        if footer is None or footer.disk_type == DiskType.FIXED:
            raise
        return footer, None
