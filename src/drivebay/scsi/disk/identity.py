"""Who a disk is, and what it can do: INQUIRY data and vital product data (SPC-4, SBC-3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from drivebay.disk.contract import Unmap
from drivebay.scsi.disk.access import MOST_COMPARED, MOST_WRITTEN_SAME
from drivebay.scsi.disk.provisioning import MOST_DESCRIPTORS
from drivebay.scsi.inquiry import (
    DEVICE_IDENTIFICATION,
    DesignationDescriptor,
    Identity,
    StandardInquiry,
    padded,
)
from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["DiskIdentity"]

SPC_4: Final = 0x06
COMMAND_QUEUE: Final = 0x02
SAM_5, SPC_4_VERSION, SBC_3 = 0x00A0, 0x0460, 0x04C0

EXTENDED_INQUIRY: Final = 0x86
BLOCK_LIMITS: Final = 0xB0
BLOCK_DEVICE_CHARACTERISTICS: Final = 0xB1
LOGICAL_BLOCK_PROVISIONING: Final = 0xB2

BINARY: Final = 1  # code sets and designators of page 83
NAA, UUID = 3, 0xA
LOCALLY_ASSIGNED: Final = 3


class VersionDescriptors(Struct, size=60, byte_order=">"):
    """What follows the 36 bytes of standard INQUIRY data."""

    vendor_specific: Annotated[bytes, "20s"] = bytes(20)
    reserved: U16 = 0
    version_descriptor_1: U16 = SAM_5
    version_descriptor_2: U16 = SPC_4_VERSION
    version_descriptor_3: U16 = SBC_3
    version_descriptors_4_8: Annotated[bytes, "10s"] = bytes(10)
    reserved_2: Annotated[bytes, "22s"] = bytes(22)


class ExtendedInquiry(Struct, size=60, byte_order=">"):
    """Page 86: task attributes that are understood, and nothing else."""

    protection: U8 = 0
    attributes: U8 = 0x07
    """SIMPSUP, ORDSUP, HEADSUP."""
    reserved: Annotated[bytes, "58s"] = bytes(58)


class BlockLimits(Struct, size=60, byte_order=">"):
    """Page B0, SBC-3; zero is no limit, or none known."""

    wsnz: U8 = 0
    maximum_compare_and_write_length: U8 = MOST_COMPARED
    optimal_transfer_length_granularity: U16 = 0
    maximum_transfer_length: U32 = 0
    optimal_transfer_length: U32 = 0
    maximum_prefetch_length: U32 = 0
    maximum_unmap_lba_count: U32 = 0
    maximum_unmap_block_descriptor_count: U32 = 0
    optimal_unmap_granularity: U32 = 0
    unmap_granularity_alignment: U32 = 0
    maximum_write_same_length: U64 = 0
    reserved: Annotated[bytes, "20s"] = bytes(20)


class BlockDeviceCharacteristics(Struct, size=60, byte_order=">"):
    """Page B1, SBC-3."""

    medium_rotation_rate: U16 = 1
    """1: it does not rotate."""
    product_type: U8 = 0
    form_factor: U8 = 0
    reserved: Annotated[bytes, "56s"] = bytes(56)


class Provisioning(Register8):
    """Page B2 byte 5."""

    LBPU = Bit(7)  # UNMAP
    LBPWS = Bit(6)  # WRITE SAME (16) with UNMAP
    LBPWS10 = Bit(5)
    LBPRZ = Bits(4, 2)  # 1: what is unmapped reads zero
    ANC_SUP = Bit(1)
    DP = Bit(0)


class LogicalBlockProvisioning(Struct, size=4, byte_order=">"):
    """Page B2, SBC-3."""

    threshold_exponent: U8 = 0
    flags: U8 = 0
    provisioning_type: U8 = 0
    """0: full, 2: thin."""
    reserved: U8 = 0


UGAVALID: Final = 1 << 31
NO_LIMIT: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class DiskIdentity(Identity):
    """What `unit` says of itself; `name` are 16 bytes that tell it from any other."""

    unit: ScsiDisk = field(kw_only=True, repr=False, compare=False)
    name: bytes = field(kw_only=True)

    def standard(self) -> bytes:
        """Standard INQUIRY data of 96 bytes."""
        head = StandardInquiry(
            version=SPC_4,
            additional_length=StandardInquiry.size + VersionDescriptors.size - 5,
            flags_7=COMMAND_QUEUE,
            t10_vendor_identification=padded(self.vendor, 8),
            product_identification=padded(self.product, 16),
            product_revision_level=padded(self.revision, 4),
        )
        return head.pack() + VersionDescriptors().pack()

    def pages(self) -> dict[int, bytes]:
        """The vital product data pages, by code and without their headers."""
        disk = self.unit.disk
        pages = super().pages()
        local = LOCALLY_ASSIGNED << 60 | int.from_bytes(self.name[:8]) & (1 << 60) - 1
        pages[DEVICE_IDENTIFICATION] += _designator(NAA, local.to_bytes(8))
        pages[DEVICE_IDENTIFICATION] += _designator(UUID, b"\x10\0" + self.name)
        pages[EXTENDED_INQUIRY] = ExtendedInquiry().pack()
        unmaps = disk.unmap_behaviour is not Unmap.IGNORED
        granularity = disk.optimal_unmap_sectors
        pages[BLOCK_LIMITS] = BlockLimits(
            optimal_transfer_length_granularity=disk.physical_sector_size // disk.sector_size,
            maximum_unmap_lba_count=NO_LIMIT if unmaps else 0,
            maximum_unmap_block_descriptor_count=MOST_DESCRIPTORS if unmaps else 0,
            optimal_unmap_granularity=granularity if unmaps else 0,
            unmap_granularity_alignment=UGAVALID if unmaps else 0,
            maximum_write_same_length=MOST_WRITTEN_SAME // disk.sector_size,
        ).pack()
        pages[BLOCK_DEVICE_CHARACTERISTICS] = BlockDeviceCharacteristics(
            medium_rotation_rate=self.unit.rotation_rate
        ).pack()
        zeroes = disk.unmap_behaviour is Unmap.ZEROES
        flags = Provisioning.of(LBPU=1, LBPWS=1, LBPWS10=1, LBPRZ=zeroes) if unmaps else 0
        pages[LOGICAL_BLOCK_PROVISIONING] = LogicalBlockProvisioning(
            flags=flags, provisioning_type=2 if unmaps else 0
        ).pack()
        return pages


def _designator(kind: int, value: bytes) -> bytes:
    head = DesignationDescriptor(
        code_set=BINARY, designator_type=kind, designator_length=len(value)
    )
    return head.pack() + value
