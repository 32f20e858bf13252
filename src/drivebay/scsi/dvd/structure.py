"""READ DISC STRUCTURE, called READ DVD STRUCTURE before: what a DVD's lead-in says (MMC-6 6.22)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.medium import Medium, Profile
from drivebay.scsi.replies import Reply
from drivebay.scsi.sense import (
    CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT,
    INVALID_FIELD_IN_CDB,
    CheckCondition,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["PhysicalFormat", "StructureHeader", "read_disc_structure"]

PHYSICAL, COPYRIGHT, MANUFACTURING, LIST = 0x00, 0x01, 0x04, 0xFF
DVD: Final = 0
CONTROL_DATA: Final = 2048
READABLE: Final = 0x40
FIRST_SECTOR: Final = 0x30000  # the physical address of block 0
LAST_SECTOR: Final = 0xFFFFFF
PART_1: Final = 0x01  # book type DVD-ROM, version 1
RATE_10_MBIT: Final = 0x02  # of a disc of 120 mm
EMBOSSED: Final = 0x01  # one layer


class StructureHeader(Struct, size=4, byte_order=">"):
    """Before all else, MMC-6. The length does not count itself."""

    length: U16 = 0
    reserved: U16 = 0


class PhysicalFormat(Struct, size=2048, byte_order=">"):
    """Format 00, MMC-6; sector addresses of 24 bits."""

    book: U8 = PART_1
    size_and_rate: U8 = RATE_10_MBIT
    layer: U8 = EMBOSSED
    density: U8 = 0
    first_sector: U32 = FIRST_SECTOR
    last_sector: U32 = 0
    last_sector_of_layer_0: U32 = 0
    bca: U8 = 0
    media_specific: Annotated[bytes, "2031s"] = bytes(2031)


class Copyright(Struct, size=4, byte_order=">"):
    """Format 01: no protection, all regions."""

    copyright_protection_system: U8 = 0
    region_management: U8 = 0
    reserved: U16 = 0


class ListEntry(Struct, size=4, byte_order=">"):
    """An entry of the list of structures, MMC-6."""

    format: U8 = 0
    flags: U8 = READABLE
    length: U16 = 0


def read_disc_structure(drive: Dvd, cdb: mmc.ReadDiscStructure) -> Task:
    """The structures of a DVD; a CD has none."""
    medium = drive.loaded()
    if cdb.media_type & 0xF != DVD or cdb.layer_number:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if medium.profile != Profile.DVD_ROM:
        raise CheckCondition(CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT)
    structures = _structures(medium)
    if cdb.format == LIST:
        data = b"".join(
            ListEntry(format=code, length=StructureHeader.size + len(body)).pack()
            for code, body in structures.items()
        )
    elif cdb.format in structures:
        data = structures[cdb.format]
    else:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    header = StructureHeader(StructureHeader.size - 2 + len(data))
    return Reply(header.pack() + data, cdb.allocation_length)


def _structures(medium: Medium) -> dict[int, bytes]:
    last = min(FIRST_SECTOR + medium.blocks - 1, LAST_SECTOR)
    return {
        PHYSICAL: PhysicalFormat(last_sector=last).pack(),
        COPYRIGHT: Copyright().pack(),
        MANUFACTURING: bytes(CONTROL_DATA),
    }
