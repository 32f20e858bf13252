"""What a VHDX image is made of, as [MS-VHDX] declares it. All numbers are little-endian.

A checksum is the CRC-32C of its whole structure with the four bytes of the checksum zero.
"""

from __future__ import annotations

import enum
import uuid
from typing import Annotated, Final

from drivebay.disk.formats.vhdx.crc32c import crc32c
from drivebay.wire import U16, U32, U64, Bit, Register32, Struct

__all__ = [
    "BAT",
    "HEADER_AT",
    "HEADER_SIZE",
    "IDENTIFIER",
    "MEBIBYTE",
    "METADATA",
    "PAGE",
    "REGIONS_AT",
    "REGIONS_SIZE",
    "DataDescriptor",
    "DataSector",
    "EntryFlags",
    "FileFlags",
    "FileParameters",
    "Header",
    "Item",
    "LocatorEntry",
    "LocatorHeader",
    "LogEntry",
    "MetadataEntry",
    "MetadataHeader",
    "RegionEntry",
    "RegionHeader",
    "State",
    "ZeroDescriptor",
    "checksum",
    "guid",
    "guid_text",
    "is_sealed",
    "seal",
]

MEBIBYTE: Final = 1 << 20
PAGE: Final = 4096
"""What the log writes at once."""
IDENTIFIER: Final = b"vhdxfile"
HEADER_AT: Final = (64 << 10, 128 << 10)
HEADER_SIZE: Final = 4096
REGIONS_AT: Final = (192 << 10, 256 << 10)
REGIONS_SIZE: Final = 64 << 10
CHECKSUM_AT: Final = 4  # in each structure that has one

Guid = Annotated[bytes, "16s"]


def guid(text: str) -> bytes:
    """A GUID as the image has it."""
    return uuid.UUID(text).bytes_le


def guid_text(data: bytes) -> str:
    """A GUID as people write it, in braces."""
    return f"{{{uuid.UUID(bytes_le=data)}}}"


BAT: Final = guid("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA: Final = guid("8b7ca206-4790-4b9a-b8fe-575f050f886e")


class Item(enum.Enum):
    """The items of metadata that are known, by their GUIDs (2.6.2)."""

    FILE_PARAMETERS = guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
    VIRTUAL_DISK_SIZE = guid("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
    VIRTUAL_DISK_ID = guid("beca12ab-b2e6-4523-93ef-c309e000c746")
    LOGICAL_SECTOR_SIZE = guid("8141bf1d-a96f-4709-ba47-f233a8faab5f")
    PHYSICAL_SECTOR_SIZE = guid("cda348c7-445d-4471-9cc9-e9885251c556")
    PARENT_LOCATOR = guid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")


class State(enum.IntEnum):
    """What is known of a payload block (2.5.1.1)."""

    NOT_PRESENT = 0
    UNDEFINED = 1
    ZERO = 2
    UNMAPPED = 3
    FULLY_PRESENT = 6
    PARTIALLY_PRESENT = 7


class Header(Struct, size=80):
    """Which log is the right one, and who may have changed the file (2.2.2)."""

    signature: Annotated[bytes, "4s"]
    checksum: U32
    sequence_number: U64
    file_write_guid: Guid
    data_write_guid: Guid
    log_guid: Guid
    log_version: U16
    version: U16
    log_length: U32
    log_offset: U64


class RegionHeader(Struct, size=16):
    """Before the region entries (2.2.3.1)."""

    signature: Annotated[bytes, "4s"]
    checksum: U32
    entry_count: U32
    reserved: U32


class RegionEntry(Struct, size=32):
    """Where a region is (2.2.3.2)."""

    guid: Guid
    file_offset: U64
    length: U32
    required: U32


class MetadataHeader(Struct, size=32):
    """Before the metadata entries (2.6.1.1)."""

    signature: Annotated[bytes, "8s"]
    reserved: U16
    entry_count: U16
    reserved_2: Annotated[bytes, "20s"]


class MetadataEntry(Struct, size=32):
    """Where an item is, from the start of the region (2.6.1.2)."""

    item_id: Guid
    offset: U32
    length: U32
    flags: U32
    reserved: U32


class EntryFlags(Register32):
    """`MetadataEntry.flags`."""

    IS_REQUIRED = Bit(2)
    IS_VIRTUAL_DISK = Bit(1)
    IS_USER = Bit(0)


class FileParameters(Struct, size=8):
    """2.6.2.1."""

    block_size: U32
    flags: U32


class FileFlags(Register32):
    """`FileParameters.flags`."""

    HAS_PARENT = Bit(1)
    LEAVE_BLOCK_ALLOCATED = Bit(0)


class LocatorHeader(Struct, size=20):
    """Before the entries of the parent locator (2.6.2.6.1)."""

    locator_type: Guid
    reserved: U16
    key_value_count: U16


class LocatorEntry(Struct, size=12):
    """A key and its value, from the start of the item (2.6.2.6.2)."""

    key_offset: U32
    value_offset: U32
    key_length: U16
    value_length: U16


class LogEntry(Struct, size=64):
    """The header of an entry of the log (2.3.1.1)."""

    signature: Annotated[bytes, "4s"]
    checksum: U32
    entry_length: U32
    tail: U32
    sequence_number: U64
    descriptor_count: U32
    reserved: U32
    log_guid: Guid
    flushed_file_offset: U64
    last_file_offset: U64


class ZeroDescriptor(Struct, size=32):
    """Bytes of the file that become zero (2.3.1.2)."""

    signature: Annotated[bytes, "4s"]
    reserved: U32
    zero_length: U64
    file_offset: U64
    sequence_number: U64


class DataDescriptor(Struct, size=32):
    """A page of the file, but for what its `DataSector` has (2.3.1.3)."""

    signature: Annotated[bytes, "4s"]
    trailing_bytes: Annotated[bytes, "4s"]
    leading_bytes: Annotated[bytes, "8s"]
    file_offset: U64
    sequence_number: U64


class DataSector(Struct, size=PAGE):
    """Bytes 8 to 4092 of a page, between halves of the sequence number (2.3.1.4)."""

    signature: Annotated[bytes, "4s"]
    sequence_high: U32
    data: Annotated[bytes, "4084s"]
    sequence_low: U32


def checksum(data: bytes) -> int:
    """The checksum of a structure, whatever it has in the place of it."""
    return crc32c(data[:CHECKSUM_AT] + bytes(4) + data[CHECKSUM_AT + 4 :])


def seal(data: bytes) -> bytes:
    """The structure with the right checksum."""
    value = checksum(data).to_bytes(4, "little")
    return data[:CHECKSUM_AT] + value + data[CHECKSUM_AT + 4 :]


def is_sealed(data: bytes) -> bool:
    """Whether the structure has the right checksum."""
    return seal(data) == data
