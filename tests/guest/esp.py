"""An EFI system partition without a partition table: FAT16 with one application in it.

Facts: the UEFI specification, sections 2.1.1 and 3.5.1; Microsoft's "FAT: General Overview of
On-Disk Format" 1.03 and "PE Format".
"""

from __future__ import annotations

import struct

SECTOR = 512
SECTORS = 8192  # 4 MiB: enough clusters of a sector for FAT16, which begins at 4085
FAT_SECTORS = 32
ROOT_ENTRIES = 512
DATA = 1 + FAT_SECTORS + ROOT_ENTRIES * 32 // SECTOR
"""The sector of cluster 2, the first: after the boot sector, one FAT and the root folder."""

FOLDER, END = 0x10, 0xFFFF
HEADERS, SECTION = 0x200, 0x1000
"""Where the section of an application begins in its file, and in memory."""


def application(code: bytes) -> bytes:
    """A PE32+ image for x86-64 whose one section is `code`, entered at its first byte."""
    size = -(-len(code) // SECTOR) * SECTOR
    in_memory = SECTION + -(-size // SECTION) * SECTION
    dos = struct.pack("<2s58xI", b"MZ", 64)
    coff = struct.pack("<4s2H3I2H", b"PE", 0x8664, 1, 0, 0, 0, 0xF0, 0x22)
    optional = struct.pack("<H2B5I", 0x20B, 0, 0, size, 0, 0, SECTION, SECTION)
    optional += struct.pack("<Q2I8x8x", 0, SECTION, HEADERS)
    optional += struct.pack("<3I2H4Q2I", in_memory, HEADERS, 0, 10, 0, 0, 0, 0, 0, 0, 16)
    place = (size, SECTION, size, HEADERS)
    section = struct.pack("<8s6I2HI", b".text", *place, 0, 0, 0, 0, 0xE0000020)
    headers = dos + coff + optional.ljust(0xF0, b"\0") + section
    return headers.ljust(HEADERS, b"\0") + code.ljust(size, b"\0")


def system_partition(program: bytes) -> bytes:
    """A disk with `program` as EFI/BOOT/BOOTX64.EFI, which firmware starts where no entry says
    what to boot.
    """
    geometry = (SECTOR, 1, 1, 1, ROOT_ENTRIES, SECTORS, 0xF8, FAT_SECTORS, 63, 255, 0, 0)
    boot = b"\xeb\xfe\x90DRIVEBAY" + struct.pack("<HBHBHHBHHHII", *geometry)
    boot += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, b"ESP", b"FAT16")
    clusters = -(-len(program) // SECTOR)
    table = [0xFFF8, END, END, END, *range(5, 4 + clusters), END]
    root, efi, folder = _entry("EFI", 2), _dots(2, 0) + _entry("BOOT", 3), _dots(3, 2)
    folder += _entry("BOOTX64 EFI", 4, len(program))
    return b"".join(
        [
            boot.ljust(510, b"\0") + b"\x55\xaa",
            struct.pack(f"<{len(table)}H", *table).ljust(FAT_SECTORS * SECTOR, b"\0"),
            root.ljust(ROOT_ENTRIES * 32, b"\0"),
            *(part.ljust(SECTOR, b"\0") for part in (efi, folder)),
            program.ljust((SECTORS - DATA - 2) * SECTOR, b"\0"),
        ]
    )


def _entry(name: str, cluster: int, size: int | None = None) -> bytes:
    """A folder, or a file if it has a size; `name` as FAT pads it."""
    kind = FOLDER if size is None else 0
    return struct.pack(
        "<11sB8xHHHHI", name.ljust(11).encode(), kind, 0, 0, 0x21, cluster, size or 0
    )


def _dots(own: int, parent: int) -> bytes:
    return _entry(".", own) + _entry("..", parent)
