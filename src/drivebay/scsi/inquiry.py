"""Who a device is: standard INQUIRY data and vital product data (SPC-4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from drivebay.scsi.cdb import Inquiry, InquiryFlags
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.wire import U8, U16, Struct

__all__ = [
    "CD_DVD",
    "DEVICE_IDENTIFICATION",
    "DIRECT_ACCESS",
    "DesignationDescriptor",
    "Identity",
    "StandardInquiry",
    "padded",
]

DIRECT_ACCESS: Final = 0x00
CD_DVD: Final = 0x05
RMB: Final = 0x80
SPC_3: Final = 0x05
SUPPORTED_PAGES: Final = 0x00
UNIT_SERIAL_NUMBER: Final = 0x80
DEVICE_IDENTIFICATION: Final = 0x83
ASCII: Final = 0x02
T10_VENDOR_ID: Final = 0x01


class StandardInquiry(Struct, size=36, byte_order=">"):
    """Standard INQUIRY data, SPC-4."""

    peripheral: U8 = 0
    rmb: U8 = 0
    version: U8 = SPC_3
    response_data_format: U8 = 2
    additional_length: U8 = 31
    flags_5: U8 = 0
    flags_6: U8 = 0
    flags_7: U8 = 0
    t10_vendor_identification: Annotated[bytes, "8s"] = b""
    product_identification: Annotated[bytes, "16s"] = b""
    product_revision_level: Annotated[bytes, "4s"] = b""


class VpdHeader(Struct, size=4, byte_order=">"):
    """Before each page of vital product data, SPC-4."""

    peripheral: U8 = 0
    page_code: U8 = 0
    page_length: U16 = 0


class DesignationDescriptor(Struct, size=4, byte_order=">"):
    """A name of the device, in page 83, SPC-4."""

    code_set: U8 = 0
    designator_type: U8 = 0
    reserved: U8 = 0
    designator_length: U8 = 0


@dataclass(frozen=True)
class Identity:
    """What a device says of itself: ASCII, padded or cut to 8, 16 and 4 characters.

    Raises `ValueError` for text that is not printable ASCII.
    """

    device_type: int
    vendor: str = "drivebay"
    product: str = ""
    revision: str = "1.0"
    serial: str = ""
    """20 characters at most; empty if it has none."""
    removable: bool = False

    def __post_init__(self) -> None:
        for text in (self.vendor, self.product, self.revision, self.serial):
            if not (text.isascii() and (text.isprintable() or not text)):
                raise ValueError(f"{text!r}: not printable ASCII")
        if len(self.serial) > 20:
            raise ValueError(f"serial {self.serial!r}: more than 20 characters")

    def inquiry(self, cdb: Inquiry) -> bytes:
        """The answer, before it is cut. Raises `CheckCondition`."""
        if cdb.flags & InquiryFlags.CMDDT:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        if cdb.flags & InquiryFlags.EVPD:
            return self._vital_product_data(cdb.page_code)
        if cdb.page_code:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        return self.standard()

    def standard(self) -> bytes:
        """Standard INQUIRY data."""
        return StandardInquiry(
            peripheral=self.device_type,
            rmb=RMB if self.removable else 0,
            t10_vendor_identification=padded(self.vendor, 8),
            product_identification=padded(self.product, 16),
            product_revision_level=padded(self.revision, 4),
        ).pack()

    def pages(self) -> dict[int, bytes]:
        """The vital product data pages, by code and without their headers."""
        pages = {}
        if self.serial:
            pages[UNIT_SERIAL_NUMBER] = self.serial.encode()
        designator = padded(self.vendor, 8) + padded(self.product, 16) + self.serial.encode()
        descriptor = DesignationDescriptor(
            code_set=ASCII, designator_type=T10_VENDOR_ID, designator_length=len(designator)
        )
        pages[DEVICE_IDENTIFICATION] = descriptor.pack() + designator
        return pages

    def _vital_product_data(self, code: int) -> bytes:
        pages = self.pages()
        pages[SUPPORTED_PAGES] = bytes(sorted({SUPPORTED_PAGES, *pages}))
        if code not in pages:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        return VpdHeader(self.device_type, code, len(pages[code])).pack() + pages[code]


def padded(text: str, size: int) -> bytes:
    """`text` as SPC-4 has it: left-aligned ASCII, filled with spaces."""
    return text.encode()[:size].ljust(size)
