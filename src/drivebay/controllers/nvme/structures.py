"""What lies in queues and data buffers (NVMe Base 2.0 sections 3.3.3, 4.1 and 5).

What IDENTIFY gives is in `identity`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register32, Struct

__all__ = [
    "CQE_SIZE",
    "SQE_SIZE",
    "ChangedNamespaces",
    "Command",
    "Completion",
    "CopyRange",
    "DsmRange",
    "ErrorEntry",
    "FirmwareSlots",
    "IoFlags",
    "NamespaceTemplate",
    "RegisteredController",
    "RegisteredControllerExtended",
    "ReservationKeys",
    "ReservationNotice",
    "ReservationStatus",
    "SanitizeStatus",
    "SglDescriptor",
    "SglType",
    "SmartLog",
]

SQE_SIZE: Final = 64
CQE_SIZE: Final = 16


class Command(Struct, size=64):
    """A submission queue entry (section 3.3.3.1): a command, parsed."""

    opcode: U8
    flags: U8  # FUSE in bits 1:0, PSDT in bits 7:6
    cid: U16
    nsid: U32
    cdw2: U32
    cdw3: U32
    mptr: U64
    prp1: U64  # both together SGL1
    prp2: U64
    cdw10: U32
    cdw11: U32
    cdw12: U32
    cdw13: U32
    cdw14: U32
    cdw15: U32

    @property
    def fuse(self) -> int:
        """Its place in a fused operation."""
        return self.flags & 3

    @property
    def psdt(self) -> int:
        """How its data is named."""
        return self.flags >> 6

    @property
    def slba(self) -> int:
        """The first block, of commands that have one."""
        return self.cdw11 << 32 | self.cdw10

    @property
    def nlb(self) -> int:
        """How many blocks, 1 to 65536."""
        return (self.cdw12 & 0xFFFF) + 1


class IoFlags(Register32):
    """CDW12 of commands with a range of blocks (NVM Command Set 1.0 section 3.2)."""

    LR = Bit(31)  # limited retry
    FUA = Bit(30)  # stable when it completes
    PRINFO = Bits(29, 26)  # protection information
    DEAC = Bit(25)  # of Write Zeroes: deallocate
    STC = Bit(24)  # storage tag check
    DTYPE = Bits(23, 20)  # directive
    NLB_z = Bits(15, 0)


class Completion(Struct, size=16):
    """A completion queue entry (section 3.3.3.2)."""

    dw0: U32
    dw1: U32
    sqhd: U16
    sqid: U16
    cid: U16
    status: U16  # the phase tag in bit 0


class SglType(enum.IntEnum):
    """Descriptor types (section 4.1.2)."""

    DATA_BLOCK = 0
    BIT_BUCKET = 1
    SEGMENT = 2
    LAST_SEGMENT = 3
    KEYED = 4
    TRANSPORT = 5


class SglDescriptor(Struct, size=16):
    """One of an SGL."""

    address: U64
    length: U32
    reserved: Annotated[bytes, "3s"] = b""
    identifier: U8 = 0  # type in bits 7:4, subtype in bits 3:0


class DsmRange(Struct, size=16):
    """Of DATASET MANAGEMENT (NVM Command Set 1.0 section 3.2.3)."""

    attributes: U32
    nlb: U32
    slba: U64


class CopyRange(Struct, size=32):
    """Of COPY, format 0 (section 3.2.2)."""

    reserved_0: U64
    slba: U64
    nlb_z: U16
    reserved_18: Annotated[bytes, "6s"] = b""
    eilbrt: U32 = 0
    elbat: U16 = 0
    elbatm: U16 = 0


# -- log pages (section 5.16.1) ------------------------------------------------------------------


class ErrorEntry(Struct, size=64):
    """Error information; the newest comes first."""

    count: U64
    sqid: U16
    cid: U16
    status: U16  # as in the completion, without phase tag
    location: U16
    lba: U64
    nsid: U32
    vendor: U8
    transport: U8
    reserved_30: U16 = 0
    specific: U64 = 0
    transport_specific: U16 = 0
    reserved_42: Annotated[bytes, "22s"] = b""


class SmartLog(Struct, size=512):
    """SMART / health information."""

    critical_warning: U8 = 0
    temperature: U16 = 0  # kelvin
    available_spare: U8 = 0  # per cent
    spare_threshold: U8 = 0
    percentage_used: U8 = 0
    endurance_warning: U8 = 0
    reserved_7: Annotated[bytes, "25s"] = b""
    data_units_read: Annotated[bytes, "16s"] = b""  # thousands of 512 bytes
    data_units_written: Annotated[bytes, "16s"] = b""
    host_reads: Annotated[bytes, "16s"] = b""
    host_writes: Annotated[bytes, "16s"] = b""
    busy_minutes: Annotated[bytes, "16s"] = b""
    power_cycles: Annotated[bytes, "16s"] = b""
    power_on_hours: Annotated[bytes, "16s"] = b""
    unsafe_shutdowns: Annotated[bytes, "16s"] = b""
    media_errors: Annotated[bytes, "16s"] = b""
    error_entries: Annotated[bytes, "16s"] = b""
    warning_minutes: U32 = 0
    critical_minutes: U32 = 0
    sensors: Annotated[bytes, "16s"] = b""
    reserved_216: Annotated[bytes, "296s"] = b""


class FirmwareSlots(Struct, size=512):
    """Firmware slot information."""

    active: U8  # now in bits 2:0, after the next reset in bits 6:4
    reserved_1: Annotated[bytes, "7s"] = b""
    revisions: Annotated[bytes, "56s"] = b""
    reserved_64: Annotated[bytes, "448s"] = b""


class ChangedNamespaces(Struct, size=4096):
    """Namespaces that have changed since this was read last; 0xFFFFFFFF alone for too many."""

    nsids: Annotated[bytes, "4096s"]


class SanitizeStatus(Struct, size=512):
    """Sanitize status."""

    progress: U16  # of 65536; 0xFFFF when nothing is under way
    status: U16
    cdw10: U32
    overwrite_seconds: U32 = 0xFFFFFFFF
    erase_seconds: U32 = 0xFFFFFFFF
    crypto_seconds: U32 = 0xFFFFFFFF
    overwrite_no_deallocate: U32 = 0xFFFFFFFF
    erase_no_deallocate: U32 = 0xFFFFFFFF
    crypto_no_deallocate: U32 = 0xFFFFFFFF
    reserved_32: Annotated[bytes, "480s"] = b""


# -- namespaces and reservations -----------------------------------------------------------------


class NamespaceTemplate(Struct, size=4096):
    """What a host says of a namespace that it creates (figure 415); places are IDENTIFY's."""

    nsze: U64
    ncap: U64
    reserved_16: Annotated[bytes, "10s"] = b""
    flbas: U8 = 0
    reserved_27: Annotated[bytes, "2s"] = b""
    dps: U8 = 0
    nmic: U8 = 0
    reserved_31: Annotated[bytes, "4065s"] = b""


class ReservationKeys(Struct, size=16):
    """What a reservation command brings (section 7.2 to 7.5); RELEASE only the first."""

    current: U64
    new: U64


class ReservationStatus(Struct, size=24):
    """What RESERVATION REPORT begins with (figure 422); the extended form fills it up to 64."""

    generation: U32
    rtype: U8
    registered: U16
    reserved_7: U16
    ptpls: U8
    reserved_10: Annotated[bytes, "14s"] = b""


class ReservationNotice(Struct, size=64):
    """Reservation notification log page (Base 2.0 figure 263)."""

    count: U64
    kind: U8
    available: U8  # how many more there are
    reserved_10: U16
    nsid: U32
    reserved_16: Annotated[bytes, "48s"] = b""


class RegisteredController(Struct, size=24):
    """An entry of it."""

    cntlid: U16
    status: U8  # bit 0: it holds the reservation
    reserved_3: Annotated[bytes, "5s"]
    host_id: Annotated[bytes, "8s"]
    key: U64


class RegisteredControllerExtended(Struct, size=64):
    """An entry of the extended form (figure 423)."""

    cntlid: U16
    status: U8
    reserved_3: Annotated[bytes, "5s"]
    key: U64
    host_id: Annotated[bytes, "16s"]
    reserved_32: Annotated[bytes, "32s"] = b""
