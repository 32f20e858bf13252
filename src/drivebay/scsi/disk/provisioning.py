"""How large the disk is and what it holds: READ CAPACITY, UNMAP, GET LBA STATUS (SBC-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.disk.contract import Unmap
from drivebay.scsi.cdb import Cdb10
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Parameters, Reply
from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    CheckCondition,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register16, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["MOST_DESCRIPTORS", "get_lba_status", "read_capacity_10", "read_capacity_16", "unmap"]

LARGEST: Final = 0xFFFFFFFF
MOST_DESCRIPTORS: Final = 4095
"""Block descriptors of an UNMAP: as many as its parameter list, of 16 bits, has room for."""
MOST_STATUS: Final = 4096
"""Extents that one GET LBA STATUS tells of, however much room it has."""

MAPPED, DEALLOCATED = 0, 1


class Capacity10(Struct, size=8, byte_order=">"):
    """READ CAPACITY (10) parameter data."""

    returned_logical_block_address: U32 = 0
    block_length: U32 = 0


class Thin(Register16):
    """READ CAPACITY (16) bytes 14 and 15."""

    LBPME = Bit(15)
    LBPRZ = Bit(14)
    LOWEST_ALIGNED_LOGICAL_BLOCK_ADDRESS = Bits(13, 0)


class Capacity16(Struct, size=32, byte_order=">"):
    """READ CAPACITY (16) parameter data."""

    returned_logical_block_address: U64 = 0
    block_length: U32 = 0
    protection: U8 = 0
    logical_blocks_per_physical_block_exponent: U8 = 0
    thin: U16 = 0
    reserved: U64 = 0
    reserved_2: U64 = 0


class UnmapHeader(Struct, size=8, byte_order=">"):
    """UNMAP parameter list header."""

    unmap_data_length: U16 = 0
    unmap_block_descriptor_data_length: U16 = 0
    reserved: U32 = 0


class UnmapDescriptor(Struct, size=16, byte_order=">"):
    """UNMAP block descriptor."""

    logical_block_address: U64 = 0
    number_of_logical_blocks: U32 = 0
    reserved: U32 = 0


class LbaStatusHeader(Struct, size=8, byte_order=">"):
    """GET LBA STATUS parameter data."""

    parameter_data_length: U32 = 0
    reserved: U32 = 0


class LbaStatus(Struct, size=16, byte_order=">"):
    """LBA status descriptor."""

    logical_block_address: U64 = 0
    number_of_logical_blocks: U32 = 0
    provisioning_status: U8 = 0
    reserved: U8 = 0
    reserved_2: U16 = 0


def read_capacity_10(unit: ScsiDisk, cdb: Cdb10) -> Task:
    """READ CAPACITY (10): a disk that is too large for it says so by the largest number."""
    last = min(unit.disk.sector_count - 1, LARGEST)
    return Reply(Capacity10(last, unit.block).pack(), Capacity10.size)


def read_capacity_16(unit: ScsiDisk, cdb: sbc.ServiceActionIn16) -> Task:
    """READ CAPACITY (16)."""
    disk = unit.disk
    thin = Thin.of(
        LBPME=disk.unmap_behaviour is not Unmap.IGNORED, LBPRZ=disk.unmap_behaviour is Unmap.ZEROES
    )
    capacity = Capacity16(
        returned_logical_block_address=disk.sector_count - 1,
        block_length=unit.block,
        logical_blocks_per_physical_block_exponent=(
            disk.physical_sector_size // disk.sector_size
        ).bit_length()
        - 1,
        thin=thin,
    )
    return Reply(capacity.pack(), cdb.allocation_length)


class UnmapBlocks(Parameters):
    """UNMAP: all ranges are on the disk, or none is unmapped."""

    def __init__(self, unit: ScsiDisk, length: int) -> None:
        self._ranges: list[tuple[int, int]] = []
        super().__init__(length, self._parse)
        self._unit = unit

    def _parse(self, data: bytes) -> None:
        header = UnmapHeader.unpack(data)
        length = header.unmap_block_descriptor_data_length
        if header.unmap_data_length != len(data) - 2 or length % UnmapDescriptor.size:
            raise CheckCondition(INVALID_FIELD_IN_PARAMETER_LIST)
        if length > len(data) - UnmapHeader.size:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        for at in range(UnmapHeader.size, UnmapHeader.size + length, UnmapDescriptor.size):
            descriptor = UnmapDescriptor.unpack(data, at)
            lba, count = descriptor.logical_block_address, descriptor.number_of_logical_blocks
            self._unit.check_range(lba, count)
            if count:
                self._ranges.append((lba, count))

    async def finish(self) -> None:
        """Parse, then unmap."""
        await super().finish()
        for lba, count in self._ranges:
            await self._unit.unmap(lba, count)


def unmap(unit: ScsiDisk, cdb: sbc.Unmap) -> Task:
    """UNMAP."""
    if cdb.anchor & 1:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    length = cdb.parameter_list_length
    if length and length < UnmapHeader.size:
        raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
    return UnmapBlocks(unit, length) if length else Reply(b"", 0)


class Status(Reply):
    """GET LBA STATUS."""

    prepares = True

    def __init__(self, unit: ScsiDisk, lba: int, room: int) -> None:
        super().__init__(b"", 0)
        self._unit, self._lba, self._room = unit, lba, room

    async def prepare(self) -> None:
        """Ask the disk."""
        unit, lba, end = self._unit, self._lba, self._unit.disk.sector_count
        most = min(max((self._room - LbaStatusHeader.size) // LbaStatus.size, 1), MOST_STATUS)
        found: list[LbaStatus] = []
        while lba < end and len(found) < most:
            for extent in await unit.extents(lba, min(end - lba, LARGEST)):
                status = MAPPED if extent.allocated else DEALLOCATED
                last = found[-1] if found else None
                size = extent.count + (last.number_of_logical_blocks if last else 0)
                if last and last.provisioning_status == status and size <= LARGEST:
                    last.number_of_logical_blocks = size
                else:
                    found.append(LbaStatus(extent.sector, extent.count, status))
                lba = extent.sector + extent.count
        descriptors = b"".join(each.pack() for each in found[:most])
        header = LbaStatusHeader(len(descriptors) + 4).pack()
        self.data = (header + descriptors)[: self._room]
        self.length = len(self.data)


def get_lba_status(unit: ScsiDisk, cdb: sbc.ServiceActionIn16) -> Task:
    """GET LBA STATUS: at least one descriptor, as many as there is room for."""
    unit.check_range(cdb.logical_block_address, 0)
    return Status(unit, cdb.logical_block_address, cdb.allocation_length)
