"""Command descriptor blocks as they lie on the wire (SPC-4), and those that all drives share.

Every field has a default, so that ``Read10(logical_block_address=5, transfer_length=1).pack()``
makes a CDB, too. Bytes of flags are registers: ``cdb.flags & InquiryFlags.EVPD``.
"""

from __future__ import annotations

from typing import Annotated

from drivebay.scsi.opcodes import Opcode
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

__all__ = [
    "Cdb6",
    "Cdb10",
    "Cdb12",
    "Inquiry",
    "InquiryFlags",
    "ModeSelect6",
    "ModeSelect10",
    "ModeSelectFlags",
    "ModeSense6",
    "ModeSense10",
    "ModeSensePage",
    "Prevent",
    "PreventAllowMediumRemoval",
    "Read10",
    "Read12",
    "ReadFlags",
    "ReportLuns",
    "RequestSense",
    "StartStopUnit",
    "StartStopUnitFlags",
    "VerifyFlags",
]

Bytes3 = Annotated[bytes, "3s"]
Bytes4 = Annotated[bytes, "4s"]
Bytes5 = Annotated[bytes, "5s"]
Bytes6 = Annotated[bytes, "6s"]


class Cdb6(Struct, size=6, byte_order=">"):
    """One of which nothing but the operation code matters."""

    operation_code: U8 = Opcode.TEST_UNIT_READY
    ignored: Bytes5 = bytes(5)


class Cdb10(Struct, size=10, byte_order=">"):
    """One that has a logical block address at most."""

    operation_code: U8 = Opcode.SEEK_10
    flags: U8 = 0
    logical_block_address: U32 = 0
    ignored: Bytes4 = bytes(4)


class Cdb12(Struct, size=12, byte_order=">"):
    """One that has a logical block address at most."""

    operation_code: U8 = Opcode.PLAY_AUDIO_12
    flags: U8 = 0
    logical_block_address: U32 = 0
    ignored: Bytes6 = bytes(6)


# -- SPC-4 ---------------------------------------------------------------------------------------


class RequestSense(Struct, size=6, byte_order=">"):
    """REQUEST SENSE, SPC-4."""

    operation_code: U8 = Opcode.REQUEST_SENSE
    desc: U8 = 0
    """Bit 0: descriptor format."""
    reserved: U16 = 0
    allocation_length: U8 = 0
    control: U8 = 0


class InquiryFlags(Register8):
    """INQUIRY byte 1."""

    CMDDT = Bit(1)
    EVPD = Bit(0)


class Inquiry(Struct, size=6, byte_order=">"):
    """INQUIRY, SPC-4."""

    operation_code: U8 = Opcode.INQUIRY
    flags: U8 = 0
    page_code: U8 = 0
    allocation_length: U16 = 0
    control: U8 = 0


class ModeSelectFlags(Register8):
    """MODE SELECT byte 1."""

    PF = Bit(4)  # the pages are those of the standard
    SP = Bit(0)  # save them


class ModeSelect6(Struct, size=6, byte_order=">"):
    """MODE SELECT (6), SPC-4."""

    operation_code: U8 = Opcode.MODE_SELECT_6
    flags: U8 = ModeSelectFlags.PF
    reserved: U16 = 0
    parameter_list_length: U8 = 0
    control: U8 = 0


class ModeSelect10(Struct, size=10, byte_order=">"):
    """MODE SELECT (10), SPC-4."""

    operation_code: U8 = Opcode.MODE_SELECT_10
    flags: U8 = ModeSelectFlags.PF
    reserved: Bytes5 = bytes(5)
    parameter_list_length: U16 = 0
    control: U8 = 0


class ModeSensePage(Register8):
    """MODE SENSE byte 2."""

    PC = Bits(7, 6)  # page control
    PAGE_CODE = Bits(5, 0)


class ModeSense6(Struct, size=6, byte_order=">"):
    """MODE SENSE (6), SPC-4."""

    operation_code: U8 = Opcode.MODE_SENSE_6
    flags: U8 = 0
    page: U8 = 0
    subpage_code: U8 = 0
    allocation_length: U8 = 0
    control: U8 = 0


class ModeSense10(Struct, size=10, byte_order=">"):
    """MODE SENSE (10), SPC-4."""

    operation_code: U8 = Opcode.MODE_SENSE_10
    flags: U8 = 0
    page: U8 = 0
    subpage_code: U8 = 0
    reserved: Bytes3 = bytes(3)
    allocation_length: U16 = 0
    control: U8 = 0


class Prevent(Register8):
    """PREVENT ALLOW MEDIUM REMOVAL byte 4."""

    PERSISTENT = Bit(1)
    PREVENT = Bit(0)


class PreventAllowMediumRemoval(Struct, size=6, byte_order=">"):
    """PREVENT ALLOW MEDIUM REMOVAL, MMC-6."""

    operation_code: U8 = Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL
    reserved: Bytes3 = bytes(3)
    prevent: U8 = 0
    control: U8 = 0


class StartStopUnitFlags(Register8):
    """START STOP UNIT byte 4."""

    POWER_CONDITIONS = Bits(7, 4)
    LOEJ = Bit(1)  # move the tray
    START = Bit(0)


class StartStopUnit(Struct, size=6, byte_order=">"):
    """START STOP UNIT, MMC-6."""

    operation_code: U8 = Opcode.START_STOP_UNIT
    immed: U8 = 0
    reserved: U16 = 0
    flags: U8 = 0
    control: U8 = 0


class ReportLuns(Struct, size=12, byte_order=">"):
    """REPORT LUNS, SPC-4."""

    operation_code: U8 = Opcode.REPORT_LUNS
    reserved: U8 = 0
    select_report: U8 = 0
    reserved_2: Bytes3 = bytes(3)
    allocation_length: U32 = 0
    reserved_3: U8 = 0
    control: U8 = 0


# -- blocks --------------------------------------------------------------------------------------


class ReadFlags(Register8):
    """READ byte 1."""

    DPO = Bit(4)
    FUA = Bit(3)
    RELADR = Bit(0)  # obsolete: an address relative to another command's


class Read10(Struct, size=10, byte_order=">"):
    """READ (10), MMC-6; VERIFY (10) looks the same."""

    operation_code: U8 = Opcode.READ_10
    flags: U8 = 0
    logical_block_address: U32 = 0
    group_number: U8 = 0
    transfer_length: U16 = 0
    control: U8 = 0


class Read12(Struct, size=12, byte_order=">"):
    """READ (12), MMC-6."""

    operation_code: U8 = Opcode.READ_12
    flags: U8 = 0
    logical_block_address: U32 = 0
    transfer_length: U32 = 0
    streaming: U8 = 0
    control: U8 = 0


class VerifyFlags(Register8):
    """VERIFY (10) byte 1."""

    BYTCHK = Bits(2, 1)  # compare with data that is sent
    RELADR = Bit(0)
