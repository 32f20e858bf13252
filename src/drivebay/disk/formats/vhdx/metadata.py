"""What a VHDX image says of its disk ([MS-VHDX] 2.6)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhdx.structs import (
    MEBIBYTE,
    EntryFlags,
    FileFlags,
    FileParameters,
    Item,
    LocatorEntry,
    LocatorHeader,
    MetadataEntry,
    MetadataHeader,
    guid,
    guid_text,
)

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store
    from drivebay.disk.formats.vhdx.headers import Region

__all__ = [
    "LINKAGE",
    "MOST_SIZE",
    "SIZE",
    "Metadata",
    "check_metadata",
    "metadata_region",
    "read_metadata",
]

TABLE_SIZE: Final = 64 << 10
MOST_ENTRIES: Final = 2047
MOST_ITEM: Final = MEBIBYTE
MOST_PAIRS: Final = 256
MOST_SIZE: Final = 64 << 40
SECTOR_SIZES: Final = (512, 4096)
LOCATOR_TYPE: Final = guid("b04aefb7-d19e-4a81-b789-25b8e9445913")
LINKAGE: Final = "parent_linkage"
U32: Final = Struct("<I")
SIZE: Final = Struct("<Q")

# What the flags of each item must be, but for the parent locator: 2.6.2.
DISK: Final = int(EntryFlags.IS_REQUIRED | EntryFlags.IS_VIRTUAL_DISK)
FILE: Final = int(EntryFlags.IS_REQUIRED)


@dataclass(frozen=True)
class Metadata:
    """Sizes in bytes."""

    block_size: int
    disk_size: int
    disk_id: bytes
    logical_sector_size: int
    physical_sector_size: int
    keeps_blocks: bool = False
    """The image was made with a place for each block: it is fixed."""
    locator: dict[str, str] | None = None
    """Of a differencing image: what leads to the parent."""
    size_at: int = 0
    """Where in the file `disk_size` is."""


async def read_metadata(store: Store, region: Region) -> Metadata:
    """Raises `DiskOpenError` where it makes no sense, and `DiskError`."""
    data = await store.read(region.offset, min(TABLE_SIZE, region.length))
    header = MetadataHeader.unpack(data)
    if header.signature != b"metadata" or header.entry_count > MOST_ENTRIES:
        raise DiskOpenError("vhdx: its metadata region holds no metadata", "the image is damaged")
    places: dict[Item, tuple[int, int]] = {}
    for number in range(header.entry_count):
        entry = MetadataEntry.unpack(data, MetadataHeader.size + number * MetadataEntry.size)
        flags = EntryFlags(entry.flags)
        if flags.IS_USER or entry.item_id not in Item._value2member_map_:
            if flags.IS_REQUIRED:
                name = guid_text(entry.item_id)
                raise DiskOpenError(f"vhdx: unknown metadata {name} are required")
            continue
        item = Item(entry.item_id)
        end = entry.offset + entry.length
        if item in places or not TABLE_SIZE <= entry.offset < end <= region.length:
            raise DiskOpenError(f"vhdx: {item.name} has {entry.length} bytes at {entry.offset}")
        places[item] = (region.offset + entry.offset, entry.length)

    async def value(name: Item, size: int) -> bytes:
        if name not in places:
            raise DiskOpenError(f"vhdx: there is no {name.name}")
        at, length = places[name]
        if size != length if size else length > MOST_ITEM:
            raise DiskOpenError(f"vhdx: {name.name} has {length} bytes")
        return await store.read(at, length)

    parameters = FileParameters.unpack(await value(Item.FILE_PARAMETERS, FileParameters.size))
    file = FileFlags(parameters.flags)
    (size,) = SIZE.unpack(await value(Item.VIRTUAL_DISK_SIZE, 8))
    (logical,) = U32.unpack(await value(Item.LOGICAL_SECTOR_SIZE, 4))
    (physical,) = U32.unpack(await value(Item.PHYSICAL_SECTOR_SIZE, 4))
    found = Metadata(
        parameters.block_size,
        size,
        await value(Item.VIRTUAL_DISK_ID, 16),
        logical,
        physical,
        bool(file.LEAVE_BLOCK_ALLOCATED),
        _locator(await value(Item.PARENT_LOCATOR, 0)) if file.HAS_PARENT else None,
        places[Item.VIRTUAL_DISK_SIZE][0],
    )
    check_metadata(found)
    return found


def check_metadata(found: Metadata) -> None:
    """Raise `DiskOpenError` unless the sizes are within the specification's limits."""
    size, sector = found.block_size, found.logical_sector_size
    if size & (size - 1) or not MEBIBYTE <= size <= 256 * MEBIBYTE:
        raise DiskOpenError(f"vhdx: blocks of {size} bytes: not a power of two from 1M to 256M")
    if sector not in SECTOR_SIZES or found.physical_sector_size not in SECTOR_SIZES:
        raise DiskOpenError(f"vhdx: sectors of {sector}/{found.physical_sector_size} bytes")
    if not 0 < found.disk_size <= MOST_SIZE or found.disk_size % sector:
        raise DiskOpenError(
            f"vhdx: no disk has {found.disk_size} bytes", "a multiple of its sectors, at most 64T"
        )


def _locator(data: bytes) -> dict[str, str]:
    if len(data) < LocatorHeader.size:
        raise DiskOpenError("vhdx: a parent locator that ends too early")
    header = LocatorHeader.unpack(data)
    end = LocatorHeader.size + header.key_value_count * LocatorEntry.size
    if header.locator_type != LOCATOR_TYPE or header.key_value_count > MOST_PAIRS:
        raise DiskOpenError(f"vhdx: a parent locator of type {guid_text(header.locator_type)}")
    if end > len(data):
        raise DiskOpenError("vhdx: a parent locator that ends too early")
    pairs = {}
    for at in range(LocatorHeader.size, end, LocatorEntry.size):
        entry = LocatorEntry.unpack(data, at)
        places = (
            (entry.key_offset, entry.key_length),
            (entry.value_offset, entry.value_length),
        )
        if any(offset + length > len(data) for offset, length in places):
            raise DiskOpenError("vhdx: a parent locator that points beyond its end")
        key, value = (
            data[offset : offset + length].decode("utf-16-le", "replace")
            for offset, length in places
        )
        pairs[key] = value
    return pairs


def metadata_region(found: Metadata) -> bytes:
    """The start of a metadata region that says this."""
    flags = FileFlags.of(
        HAS_PARENT=found.locator is not None, LEAVE_BLOCK_ALLOCATED=found.keeps_blocks
    )
    items = [
        (Item.FILE_PARAMETERS, FILE, FileParameters(found.block_size, flags).pack()),
        (Item.VIRTUAL_DISK_SIZE, DISK, SIZE.pack(found.disk_size)),
        (Item.VIRTUAL_DISK_ID, DISK, found.disk_id),
        (Item.LOGICAL_SECTOR_SIZE, DISK, U32.pack(found.logical_sector_size)),
        (Item.PHYSICAL_SECTOR_SIZE, DISK, U32.pack(found.physical_sector_size)),
    ]
    if found.locator is not None:
        items.append((Item.PARENT_LOCATOR, FILE, _locator_item(found.locator)))
    table, data = MetadataHeader(b"metadata", 0, len(items), bytes(20)).pack(), b""
    for item, required, value in items:
        table += MetadataEntry(item.value, TABLE_SIZE + len(data), len(value), required, 0).pack()
        data += value.ljust(-(-len(value) // 8) * 8, b"\0")
    return table.ljust(TABLE_SIZE, b"\0") + data


def _locator_item(pairs: dict[str, str]) -> bytes:
    table, data = LocatorHeader(LOCATOR_TYPE, 0, len(pairs)).pack(), b""
    start = LocatorHeader.size + len(pairs) * LocatorEntry.size
    for key, value in pairs.items():
        name, text = key.encode("utf-16-le"), value.encode("utf-16-le")
        at = start + len(data)
        table += LocatorEntry(at, at + len(name), len(name), len(text)).pack()
        data += name + text
    return table + data
