"""The footer of a VHD image: its last 512 bytes, and of a dynamic one its first too.

Sections are those of the Virtual Hard Disk Image Format Specification 1.0 (2006). All numbers are
big-endian.
"""

from __future__ import annotations

import enum
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.wire import U8, U16, U32, U64, Struct

if TYPE_CHECKING:
    from drivebay.disk.contract import Buffers

__all__ = [
    "EPOCH",
    "FOOTER_SIZE",
    "MAX_DYNAMIC",
    "NOWHERE",
    "SECTOR",
    "DiskType",
    "Footer",
    "Geometry",
    "checksum",
    "now",
    "parse_footer",
]

SECTOR: Final = 512
FOOTER_SIZE: Final = 512
COOKIE: Final = b"conectix"
RESERVED: Final = 2
"""The bit of `Footer.features` that is always set."""
VERSION: Final = 0x00010000
NOWHERE: Final = (1 << 64) - 1
"""The data offset of an image without a dynamic disk header."""
EPOCH: Final = 946684800
"""Time stamps count seconds from here: 1 January 2000, UTC."""
MAX_DYNAMIC: Final = 2040 << 30
"""What Windows takes; block offsets are 32-bit sector numbers."""

# Readers take the size from `current_size` only where they know the creator; of others, QEMU
# believes the geometry, which cannot say every size. This is Windows.
CREATOR: Final = b"win "
CREATOR_VERSION: Final = 0x000A0000
CREATOR_HOST: Final = b"Wi2k"


class DiskType(enum.IntEnum):
    """What follows, or does not follow, the footer."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


class Geometry(Struct, size=4, byte_order=">"):
    """Cylinders, heads, sectors a track: as much of the disk as these can say."""

    cylinders: U16
    heads: U8
    sectors: U8

    @classmethod
    def of(cls, size: int) -> Geometry:
        """The geometry of a disk of `size` bytes (Appendix: CHS Calculation)."""
        total = min(size // SECTOR, 65535 * 16 * 255)
        if total >= 65535 * 16 * 63:
            return cls(total // (16 * 255), 16, 255)
        heads, sectors = max(4, -(-(total // 17) // 1024)), 17
        if total // 17 >= heads * 1024 or heads > 16:
            heads, sectors = 16, 31
        if total // sectors >= heads * 1024:
            heads, sectors = 16, 63
        return cls(total // sectors // heads, heads, sectors)


class Footer(Struct, size=FOOTER_SIZE, byte_order=">"):
    """Hard Disk Footer Format. Sizes in bytes."""

    cookie: Annotated[bytes, "8s"]
    features: U32
    file_format_version: U32
    data_offset: U64
    time_stamp: U32
    creator_application: Annotated[bytes, "4s"]
    creator_version: U32
    creator_host_os: Annotated[bytes, "4s"]
    original_size: U64
    current_size: U64
    disk_geometry: Annotated[bytes, "4s"]
    disk_type: U32
    checksum: U32
    unique_id: Annotated[bytes, "16s"]
    saved_state: U8
    reserved: Annotated[bytes, "427s"]

    @classmethod
    def make(
        cls, size: int, kind: DiskType, data_offset: int = NOWHERE, unique_id: bytes | None = None
    ) -> Footer:
        """The footer of a new image of `size` bytes; without `unique_id` it gets a random one."""
        return cls(
            COOKIE,
            RESERVED,
            VERSION,
            data_offset,
            now(),
            CREATOR,
            CREATOR_VERSION,
            CREATOR_HOST,
            size,
            size,
            Geometry.of(size).pack(),
            kind,
            0,
            unique_id or os.urandom(16),
            0,
            bytes(427),
        ).sealed()

    def resized(self, size: int) -> Footer:
        """The footer after the disk was resized to `size` bytes."""
        return replace(self, current_size=size, disk_geometry=Geometry.of(size).pack()).sealed()

    def sealed(self) -> Footer:
        """This footer with the right checksum."""
        return replace(self, checksum=checksum(replace(self, checksum=0).pack()))

    def buffers(self) -> Buffers:
        """What a `Store` writes."""
        return [memoryview(self.pack())]

    @property
    def capacity(self) -> int:
        """The disk's size in bytes."""
        return self.current_size

    @property
    def disk_id(self) -> bytes:
        """What `Disk.disk_id` asks for."""
        return self.unique_id


def now() -> int:
    """A time stamp: seconds since `EPOCH`."""
    return int(time.time()) - EPOCH


def checksum(data: bytes) -> int:
    """The one's complement of the sum of all bytes, those of the checksum taken as zero."""
    return ~sum(data) & 0xFFFFFFFF


def parse_footer(data: bytes, container: int) -> Footer:
    """The footer in `data`, which has 512 bytes; `container` is the size of the whole image.

    Raises `DiskOpenError` where it is none, or says what cannot be.
    """
    footer = Footer.unpack(data)
    if footer.cookie != COOKIE:
        raise DiskOpenError("vhd: no footer: the image does not end with a VHD's 'conectix'")
    if footer.sealed().checksum != footer.checksum:
        raise DiskOpenError("vhd: the footer's checksum is wrong", "the image is damaged")
    if footer.file_format_version >> 16 != VERSION >> 16:
        raise DiskOpenError(f"vhd: file format version {footer.file_format_version:#x} is unknown")
    if footer.disk_type not in DiskType._value2member_map_:
        raise DiskOpenError(f"vhd: there is no disk type {footer.disk_type}")
    size, fixed = footer.current_size, footer.disk_type == DiskType.FIXED
    if not size or size % SECTOR:
        raise DiskOpenError(f"vhd: {size} bytes are not a whole number of sectors")
    if fixed and size > container - FOOTER_SIZE:
        raise DiskOpenError(
            f"vhd: the footer says {size} bytes, the image has room for {container - FOOTER_SIZE}",
            "the image is truncated",
        )
    return footer
