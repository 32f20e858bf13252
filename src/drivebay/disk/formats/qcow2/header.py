"""The header of a qcow2 image and its extensions (QEMU's docs/interop/qcow2.txt, "Header").

All of it is hostile: what passes `parse` has its tables inside the image, apart from each other,
and of a size that may be read.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Annotated, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.wire import U32, U64, Bit, Register64, Struct

__all__ = [
    "BACKING_FORMAT",
    "BITMAPS",
    "LARGEST_CLUSTER",
    "MOST_L1_BYTES",
    "MOST_REFCOUNT_TABLE",
    "SMALLEST_CLUSTER",
    "Autoclear",
    "Header",
    "ImageHeader",
    "Incompatible",
    "extension",
    "parse",
]

MAGIC: Final = b"QFI\xfb"
SMALLEST_CLUSTER: Final = 1 << 9
LARGEST_CLUSTER: Final = 1 << 21
SMALLEST_EXTENDED: Final = 14  # bits of a cluster with subclusters
MOST_L1_BYTES: Final = 32 << 20  # these four are QEMU's own limits
MOST_REFCOUNT_TABLE: Final = 8 << 20
MOST_SNAPSHOTS: Final = 65536
LONGEST_NAME: Final = 1023
BACKING_FORMAT: Final = 0xE2792ACA
FEATURE_NAMES: Final = 0x6803F857
BITMAPS: Final = 0x23852875
COMPRESSIONS: Final = ("zlib", "zstd")


class Header(Struct, size=104, byte_order=">"):
    """Version 3; version 2 ends before `incompatible_features`."""

    magic: Annotated[bytes, "4s"]
    version: U32
    backing_file_offset: U64
    backing_file_size: U32
    cluster_bits: U32
    disk_size: U64
    """In bytes; the spec calls it size."""
    crypt_method: U32
    l1_size: U32
    l1_table_offset: U64
    refcount_table_offset: U64
    refcount_table_clusters: U32
    nb_snapshots: U32
    snapshots_offset: U64
    incompatible_features: U64
    compatible_features: U64
    autoclear_features: U64
    refcount_order: U32
    header_length: U32


VERSION_2_LENGTH: Final = 72


class Incompatible(Register64):
    """Features without which an image cannot be read."""

    EXTENDED_L2 = Bit(4)
    COMPRESSION_TYPE = Bit(3)
    EXTERNAL_DATA_FILE = Bit(2)
    CORRUPT = Bit(1)
    DIRTY = Bit(0)


class Autoclear(Register64):
    """Features that are void once somebody has written who does not know them."""

    RAW_EXTERNAL_DATA = Bit(1)
    BITMAPS = Bit(0)


KNOWN: Final = 0b11111


@dataclass(frozen=True)
class ImageHeader:
    """A header that makes sense."""

    fields: Header
    compression: str
    backing_file: str
    """Empty if there is none."""
    extensions: dict[int, bytes]

    @property
    def incompatible(self) -> Incompatible:
        """The features that an image cannot be read without."""
        return Incompatible(self.fields.incompatible_features)

    @property
    def extended(self) -> bool:
        """Clusters have subclusters."""
        return self.incompatible.EXTENDED_L2

    @property
    def cluster_size(self) -> int:
        """Bytes."""
        return 1 << self.fields.cluster_bits

    @property
    def backing_format(self) -> str:
        """What the backing file is said to be; empty if nothing is said."""
        return self.extensions.get(BACKING_FORMAT, b"").decode(errors="replace")


def extension(kind: int, data: bytes) -> bytes:
    """A header extension as it is stored."""
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


def parse(data: bytes, size: int, name: str) -> ImageHeader:
    """The header at the start of `data`, which holds the first cluster or all `size` bytes there
    are. Raises `DiskOpenError`, which calls the image `name`.
    """
    if data[:4] != MAGIC or len(data) < VERSION_2_LENGTH:
        raise DiskOpenError(f"{name}: not a qcow2 image", "it begins with other bytes than QFI")
    version = int.from_bytes(data[4:8], "big")
    if version not in (2, 3):
        raise DiskOpenError(f"{name}: qcow2 of version {version}", "there are versions 2 and 3")
    if version == 2:
        fields = Header.unpack(data[:VERSION_2_LENGTH].ljust(Header.size, b"\0"))
        fields.refcount_order, fields.header_length = 4, VERSION_2_LENGTH
    elif len(data) < Header.size:
        raise _bad(name, "it ends in its header")
    else:
        fields = Header.unpack(data)
    _check_fields(fields, name)
    first = data[: 1 << fields.cluster_bits]
    extensions = _extensions(first, fields, name)
    _check_features(fields, extensions.get(FEATURE_NAMES, b""), name)
    _check_tables(fields, size, name)
    return ImageHeader(
        fields, _compression(first, fields, name), _backing_file(first, fields, name), extensions
    )


def _bad(name: str, what: str) -> DiskOpenError:
    return DiskOpenError(f"{name}: a bad qcow2 header: {what}", "qemu-img check may know more")


def _check_fields(fields: Header, name: str) -> None:
    bits, length = fields.cluster_bits, fields.header_length
    if not SMALLEST_CLUSTER <= 1 << min(bits, 64) <= LARGEST_CLUSTER:
        raise _bad(name, f"clusters of 2^{bits} bytes")
    if fields.version == 3 and (not Header.size <= length <= 1 << bits or length % 8):
        raise _bad(name, f"a header of {length} bytes")
    if fields.refcount_order > 6:
        raise _bad(name, f"refcounts of 2^{fields.refcount_order} bits")
    if fields.crypt_method:
        method = {1: "AES", 2: "LUKS"}.get(fields.crypt_method, f"method {fields.crypt_method}")
        raise DiskOpenError(
            f"{name}: is encrypted ({method})", "decrypt it: qemu-img convert -O qcow2"
        )
    if not 512 <= fields.disk_size < 1 << 63:
        raise _bad(name, f"a disk of {fields.disk_size} bytes")


def _check_features(fields: Header, names: bytes, name: str) -> None:
    features = Incompatible(fields.incompatible_features)
    if unknown := features & ~KNOWN:
        known = {
            (names[at], names[at + 1]): names[at + 2 : at + 48].split(b"\0")[0]
            for at in range(0, len(names) - 47, 48)
        }
        bits = [bit for bit in range(64) if unknown >> bit & 1]
        shown = [known.get((0, bit), b"").decode(errors="replace") or f"bit {bit}" for bit in bits]
        text = ", ".join(text if text.isprintable() else repr(text) for text in shown)
        raise DiskOpenError(
            f"{name}: uses features of qcow2 that drivebay does not know: {text}",
            "convert it: qemu-img convert -O qcow2",
        )
    if features.EXTERNAL_DATA_FILE:
        raise DiskOpenError(
            f"{name}: its data are in another file (external data file)",
            "bring it into one: qemu-img convert -O qcow2",
        )
    if features.EXTENDED_L2 and fields.cluster_bits < SMALLEST_EXTENDED:
        raise _bad(name, f"subclusters in clusters of 2^{fields.cluster_bits} bytes")


def _check_tables(fields: Header, size: int, name: str) -> None:
    cluster = 1 << fields.cluster_bits
    entries = cluster // (16 if Incompatible(fields.incompatible_features).EXTENDED_L2 else 8)
    if fields.l1_size * 8 > MOST_L1_BYTES or fields.l1_size < -(
        -fields.disk_size // cluster // entries
    ):
        raise _bad(name, f"an L1 table of {fields.l1_size} entries for {fields.disk_size} bytes")
    if not 0 < fields.refcount_table_clusters * cluster <= MOST_REFCOUNT_TABLE:
        raise _bad(name, f"a refcount table of {fields.refcount_table_clusters} clusters")
    if fields.nb_snapshots > MOST_SNAPSHOTS:
        raise _bad(name, f"{fields.nb_snapshots} snapshots")
    tables = [
        (0, cluster, "header"),
        (fields.l1_table_offset, fields.l1_size * 8, "L1 table"),
        (fields.refcount_table_offset, fields.refcount_table_clusters * cluster, "refcount table"),
    ]
    if fields.nb_snapshots:
        tables.append((fields.snapshots_offset, fields.nb_snapshots * 40, "snapshot table"))
    end, before = 0, ""
    for offset, length, what in sorted(tables):
        if offset % cluster or offset + length > max(size, cluster):
            raise _bad(name, f"the {what} at {offset:#x} is not in the image")
        if offset < end:
            raise _bad(name, f"the {what} overlaps the {before}")
        end, before = offset + length, what


def _extensions(data: bytes, fields: Header, name: str) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at, end = fields.header_length, len(data)
    if fields.backing_file_offset:
        end = min(end, fields.backing_file_offset)
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", data, at)
        if kind == 0:
            break
        if at + 8 + length > end:
            raise _bad(name, f"the extension {kind:#x} of {length} bytes")
        found[kind] = data[at + 8 : at + 8 + length]
        at += 8 + length + -length % 8
    return found


def _compression(data: bytes, fields: Header, name: str) -> str:
    number = data[Header.size] if fields.header_length > Header.size < len(data) else 0
    announced = Incompatible(fields.incompatible_features).COMPRESSION_TYPE
    if number >= len(COMPRESSIONS) or announced != bool(number):
        raise _bad(name, f"compression {number}")
    return COMPRESSIONS[number]


def _backing_file(data: bytes, fields: Header, name: str) -> str:
    if not (offset := fields.backing_file_offset):
        return ""
    length = fields.backing_file_size
    if not 0 < length <= LONGEST_NAME or offset + length > len(data):
        raise _bad(name, "the backing file's name is not in the first cluster")
    return os.fsdecode(data[offset : offset + length])
