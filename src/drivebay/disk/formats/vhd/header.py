"""The dynamic disk header: where the blocks of a dynamic or differencing image are, and its parent.

Sections are those of the Virtual Hard Disk Image Format Specification 1.0 (2006).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhd.footer import (
    FOOTER_SIZE,
    NOWHERE,
    SECTOR,
    Footer,
    checksum,
)
from drivebay.wire import U32, U64, Struct

if TYPE_CHECKING:
    from drivebay.disk.contract import Buffers
    from drivebay.disk.formats.store import Store

__all__ = [
    "BLOCK_SIZE",
    "HEADER_SIZE",
    "LOCATORS",
    "DynamicHeader",
    "Locator",
    "parent_paths",
    "parse_header",
    "table_size",
]

HEADER_SIZE: Final = 1024
BLOCK_SIZE: Final = 2 << 20
LOCATORS: Final = 8
COOKIE: Final = b"cxsparse"
VERSION: Final = 0x00010000
MOST_BLOCKS: Final = 1 << 22
"""4 bytes of memory each. 2 TiB in blocks of 512 KiB, the smallest that other programs write."""
MOST_SECTORS: Final = 1 << 32
MOST_LOCATOR: Final = 4096
"""Bytes of a parent's path that are read."""

RELATIVE: Final = b"W2ru"
ABSOLUTE: Final = b"W2ku"
URL: Final = b"MacX"


class Locator(Struct, size=24, byte_order=">"):
    """Where one form of the parent's path is. Sizes and offsets in bytes."""

    platform_code: Annotated[bytes, "4s"]
    platform_data_space: U32
    platform_data_length: U32
    reserved: U32
    platform_data_offset: U64


class DynamicHeader(Struct, size=HEADER_SIZE, byte_order=">"):
    """Dynamic Disk Header Format."""

    cookie: Annotated[bytes, "8s"]
    data_offset: U64
    table_offset: U64
    header_version: U32
    max_table_entries: U32
    block_size: U32
    checksum: U32
    parent_unique_id: Annotated[bytes, "16s"]
    parent_time_stamp: U32
    reserved: U32
    parent_unicode_name: Annotated[bytes, "512s"]
    parent_locators: Annotated[bytes, "192s"]
    reserved_2: Annotated[bytes, "256s"]

    @classmethod
    def make(cls, table_offset: int, entries: int, block_size: int) -> DynamicHeader:
        """The header of a new dynamic image."""
        header = cls(
            COOKIE,
            NOWHERE,
            table_offset,
            VERSION,
            entries,
            block_size,
            0,
            bytes(16),
            0,
            0,
            bytes(512),
            bytes(192),
            bytes(256),
        )
        return header.sealed()

    def sealed(self) -> DynamicHeader:
        """This header with the right checksum."""
        return replace(self, checksum=checksum(replace(self, checksum=0).pack()))

    def buffers(self) -> Buffers:
        """What a `Store` writes."""
        return [memoryview(self.pack())]

    @property
    def locators(self) -> list[Locator]:
        """Those in use."""
        size = Locator.size
        found = [Locator.unpack(self.parent_locators, at * size) for at in range(LOCATORS)]
        return [locator for locator in found if locator.platform_code != bytes(4)]


def table_size(entries: int) -> int:
    """The bytes that a block allocation table of so many entries takes: whole sectors."""
    return -(-entries * 4 // SECTOR) * SECTOR


def parse_header(data: bytes, footer: Footer, container: int) -> DynamicHeader:
    """The header in `data`, which has 1024 bytes, for an image of `container` bytes.

    Raises `DiskOpenError` where it is none, or says what cannot be.
    """
    header = DynamicHeader.unpack(data)
    if header.cookie != COOKIE:
        raise DiskOpenError("vhd: no dynamic disk header where the footer says that one is")
    if header.sealed().checksum != header.checksum:
        raise DiskOpenError("vhd: the header's checksum is wrong", "the image is damaged")
    if header.header_version >> 16 != VERSION >> 16:
        raise DiskOpenError(f"vhd: header version {header.header_version:#x} is unknown")
    size = header.block_size
    if size & (size - 1) or not 4096 <= size <= 256 << 20:
        raise DiskOpenError(f"vhd: blocks of {size} bytes: not a power of two from 4K to 256M")
    blocks = -(-footer.current_size // size)
    if footer.current_size > MOST_SECTORS * SECTOR or blocks > MOST_BLOCKS:
        raise DiskOpenError(f"vhd: {footer.current_size} bytes are too many for a dynamic image")
    if blocks > header.max_table_entries:
        raise DiskOpenError(
            f"vhd: a table of {header.max_table_entries} entries for {blocks} blocks"
        )
    table = header.table_offset, header.table_offset + table_size(header.max_table_entries)
    own = footer.data_offset, footer.data_offset + HEADER_SIZE
    if table[0] % SECTOR or table[0] < FOOTER_SIZE or table[1] > container:
        raise DiskOpenError(f"vhd: a block table at {table[0]}, of an image of {container} bytes")
    if table[0] < own[1] and own[0] < table[1]:
        raise DiskOpenError("vhd: the block table lies on the header")
    return header


async def parent_paths(header: DynamicHeader, store: Store) -> tuple[str, ...]:
    """Where the header says that the parent is, the likeliest first.

    Paths of Windows and their drives mean nothing here and are left out.
    """
    found: dict[bytes, str] = {}
    for locator in header.locators:
        code, length = locator.platform_code, locator.platform_data_length
        at = locator.platform_data_offset
        if length > MOST_LOCATOR or at + length > store.size:
            raise DiskOpenError(f"vhd: a parent's path of {length} bytes at {at}")
        found[code] = (await store.read(at, length)).decode(
            "utf-8" if code == URL else "utf-16-le", "replace"
        )
    url = found.get(URL, "").removeprefix("file://").removeprefix("localhost")
    name = header.parent_unicode_name.decode("utf-16-be", "replace")
    texts = [found.get(RELATIVE, ""), url, found.get(ABSOLUTE, ""), name]
    paths = [text.rstrip("\0").replace("\\", "/").removeprefix("./") for text in texts]
    return tuple(dict.fromkeys(path for path in paths if path and path[1:2] != ":"))
