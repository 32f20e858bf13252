"""The first mebibyte of a VHDX image: headers, and where its regions are ([MS-VHDX] 2.2)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhdx.structs import (
    BAT,
    HEADER_AT,
    HEADER_SIZE,
    IDENTIFIER,
    MEBIBYTE,
    METADATA,
    REGIONS_AT,
    REGIONS_SIZE,
    Header,
    RegionEntry,
    RegionHeader,
    guid_text,
    is_sealed,
    seal,
)

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store

__all__ = ["NO_LOG", "Headers", "Region", "Regions", "read_headers", "read_regions", "region_table"]

NO_LOG: Final = bytes(16)
"""The log GUID of an image whose log is empty."""
MOST_LOG: Final = 16 << 20  # all of it may be in memory; everybody makes it of 1 MiB
MOST_TABLE: Final = 513 << 20
MOST_METADATA: Final = 128 << 20
MOST_REGIONS: Final = 2047
LAST_NUMBER: Final = (1 << 64) - (1 << 32)  # an image is not changed so often; nor may it wrap
KNOWN: Final = {BAT: "block allocation table", METADATA: "metadata"}


class Region(NamedTuple):
    """A part of the file, in bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.offset + self.length


class Regions(NamedTuple):
    """Where things are."""

    table: Region
    metadata: Region


class Headers:
    """The two headers: the current one, and the other, which an update overwrites.

    So one of them is always whole (2.2.2). `slot` says which is current, None in a new image.
    """

    def __init__(self, store: Store, current: Header, slot: int | None) -> None:
        self.current = current
        self._store = store
        self._slot = slot

    @property
    def log(self) -> Region:
        """Where the log is."""
        return Region(self.current.log_offset, self.current.log_length)

    async def update(
        self, *, log_guid: bytes | None = None, file_written: bool = False, written: bool = False
    ) -> None:
        """Change the header, stably. New GUIDs say that the file or the disk is `written`."""
        old = self.current
        new = replace(
            old,
            sequence_number=old.sequence_number + 1,
            file_write_guid=os.urandom(16) if file_written or written else old.file_write_guid,
            data_write_guid=os.urandom(16) if written else old.data_write_guid,
            log_guid=old.log_guid if log_guid is None else log_guid,
        )
        slot = 0 if self._slot is None else 1 - self._slot
        page = seal(new.pack().ljust(HEADER_SIZE, b"\0"))
        await self._store.flush()
        await self._store.write(HEADER_AT[slot], [memoryview(page)])
        await self._store.flush()
        self.current, self._slot = new, slot


async def read_headers(store: Store) -> Headers:
    """The current header. Raises `DiskOpenError` where there is none, and `DiskError`."""
    if store.size < MEBIBYTE or await store.read(0, len(IDENTIFIER)) != IDENTIFIER:
        raise DiskOpenError("vhdx: the image does not begin with 'vhdxfile'")
    found = []
    for slot, offset in enumerate(HEADER_AT):
        data = await store.read(offset, HEADER_SIZE)
        header = Header.unpack(data)
        if header.signature == b"head" and is_sealed(data):
            found.append((header.sequence_number, slot, header))
    if not found:
        raise DiskOpenError("vhdx: neither header is whole", "the image is damaged")
    number, slot, header = max(found)
    if len(found) == 2 and found[0][0] == found[1][0] and found[0][2] != found[1][2]:
        raise DiskOpenError(f"vhdx: two headers of sequence number {number}")
    if number > LAST_NUMBER:
        raise DiskOpenError(f"vhdx: a header of sequence number {number}, after which none comes")
    if header.version != 1 or (header.log_guid != NO_LOG and header.log_version != 0):
        raise DiskOpenError(
            f"vhdx: version {header.version} with a log of version {header.log_version} is unknown"
        )
    _check_region("log", Region(header.log_offset, header.log_length), store.size, MOST_LOG)
    return Headers(store, header, slot)


async def read_regions(store: Store, log: Region) -> Regions:
    """The regions (2.2.3). Raises `DiskOpenError` where they make no sense, and `DiskError`."""
    for offset in REGIONS_AT:
        data = await store.read(offset, REGIONS_SIZE)
        header = RegionHeader.unpack(data)
        if header.signature == b"regi" and header.entry_count <= MOST_REGIONS and is_sealed(data):
            break
    else:
        raise DiskOpenError("vhdx: neither region table is whole", "the image is damaged")
    found: dict[bytes, Region] = {}
    taken = [log]
    for number in range(header.entry_count):
        entry = RegionEntry.unpack(data, RegionHeader.size + number * RegionEntry.size)
        if entry.guid not in KNOWN:
            if entry.required & 1:
                raise DiskOpenError(f"vhdx: an unknown region {guid_text(entry.guid)} is required")
            continue
        name, region = KNOWN[entry.guid], Region(entry.file_offset, entry.length)
        if entry.guid in found:
            raise DiskOpenError(f"vhdx: two regions are its {name}")
        most = MOST_TABLE if entry.guid == BAT else MOST_METADATA
        _check_region(name, region, store.size, most)
        if any(region.offset < other.end and other.offset < region.end for other in taken):
            raise DiskOpenError(f"vhdx: its {name} lies on another region")
        found[entry.guid] = region
        taken.append(region)
    for key, name in KNOWN.items():
        if key not in found:
            raise DiskOpenError(f"vhdx: no region is its {name}")
    return Regions(found[BAT], found[METADATA])


def _check_region(name: str, region: Region, size: int, most: int) -> None:
    if (
        (region.offset | region.length) % MEBIBYTE
        or region.offset < MEBIBYTE
        or not 0 < region.length <= most
        or region.end > size
    ):
        raise DiskOpenError(
            f"vhdx: its {name} has {region.length} bytes at {region.offset}, "
            f"of an image of {size} bytes"
        )


def region_table(regions: Regions) -> bytes:
    """The region table of an image that has just these."""
    entries = ((BAT, regions.table), (METADATA, regions.metadata))
    data = RegionHeader(b"regi", 0, len(entries), 0).pack()
    data += b"".join(RegionEntry(key, at, size, 1).pack() for key, (at, size) in entries)
    return seal(data.ljust(REGIONS_SIZE, b"\0"))
