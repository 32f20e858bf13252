"""Command descriptor blocks of disks (SBC-3), and of SPC-4 what only disks have."""

from __future__ import annotations

from typing import Annotated

from drivebay.scsi.opcodes import Opcode
from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register8, Struct

__all__ = [
    "CompareAndWrite",
    "LogSense",
    "LogSensePage",
    "PersistentReserveIn",
    "PersistentReserveOut",
    "Read6",
    "Read16",
    "ReadBuffer",
    "ReportSupported",
    "ReportSupportedOptions",
    "ScopeType",
    "SendDiagnostic",
    "SendDiagnosticFlags",
    "ServiceActionIn16",
    "SynchronizeFlags",
    "Unmap",
    "WriteSameFlags",
]

Bytes2 = Annotated[bytes, "2s"]
Bytes3 = Annotated[bytes, "3s"]
Bytes4 = Annotated[bytes, "4s"]
Bytes5 = Annotated[bytes, "5s"]

LBA_6 = 0x1F_FFFF
"""Bits of the address in a 6-byte CDB."""


class Read6(Struct, size=6, byte_order=">"):
    """READ (6) and WRITE (6); RESERVE (6), RELEASE (6) and FORMAT UNIT look no different to us."""

    operation_code: U8 = Opcode.READ_6
    logical_block_address_high: U8 = 0
    logical_block_address_low: U16 = 0
    transfer_length: U8 = 0
    control: U8 = 0

    @property
    def logical_block_address(self) -> int:
        """All 21 bits."""
        return (self.logical_block_address_high << 16 | self.logical_block_address_low) & LBA_6


class Read16(Struct, size=16, byte_order=">"):
    """READ (16); all commands of 16 bytes that take a range of blocks look the same."""

    operation_code: U8 = Opcode.READ_16
    flags: U8 = 0
    logical_block_address: U64 = 0
    transfer_length: U32 = 0
    group_number: U8 = 0
    control: U8 = 0


class SynchronizeFlags(Register8):
    """SYNCHRONIZE CACHE and PRE-FETCH byte 1."""

    IMMED = Bit(1)


class WriteSameFlags(Register8):
    """WRITE SAME byte 1; NDOB is of the 16-byte command only."""

    WRPROTECT = Bits(7, 5)
    ANCHOR = Bit(4)
    UNMAP = Bit(3)
    NDOB = Bit(0)  # no data comes: write zeroes


class CompareAndWrite(Struct, size=16, byte_order=">"):
    """COMPARE AND WRITE, SBC-3."""

    operation_code: U8 = Opcode.COMPARE_AND_WRITE
    flags: U8 = 0
    logical_block_address: U64 = 0
    reserved: Bytes3 = bytes(3)
    number_of_logical_blocks: U8 = 0
    group_number: U8 = 0
    control: U8 = 0


class Unmap(Struct, size=10, byte_order=">"):
    """UNMAP, SBC-3."""

    operation_code: U8 = Opcode.UNMAP
    anchor: U8 = 0
    reserved: Bytes4 = bytes(4)
    group_number: U8 = 0
    parameter_list_length: U16 = 0
    control: U8 = 0


class ServiceActionIn16(Struct, size=16, byte_order=">"):
    """READ CAPACITY (16) and GET LBA STATUS, SBC-3."""

    operation_code: U8 = Opcode.SERVICE_ACTION_IN_16
    service_action: U8 = 0
    logical_block_address: U64 = 0
    allocation_length: U32 = 0
    reserved: U8 = 0
    control: U8 = 0


class SendDiagnosticFlags(Register8):
    """SEND DIAGNOSTIC byte 1."""

    SELF_TEST_CODE = Bits(7, 5)
    PF = Bit(4)
    SELFTEST = Bit(2)
    DEVOFFL = Bit(1)
    UNITOFFL = Bit(0)


class SendDiagnostic(Struct, size=6, byte_order=">"):
    """SEND DIAGNOSTIC, SPC-4."""

    operation_code: U8 = Opcode.SEND_DIAGNOSTIC
    flags: U8 = 0
    reserved: U8 = 0
    parameter_list_length: U16 = 0
    control: U8 = 0


class LogSensePage(Register8):
    """LOG SENSE byte 2."""

    PC = Bits(7, 6)
    PAGE_CODE = Bits(5, 0)


class LogSense(Struct, size=10, byte_order=">"):
    """LOG SENSE, SPC-4."""

    operation_code: U8 = Opcode.LOG_SENSE
    save: U8 = 0
    page: U8 = 0
    subpage_code: U8 = 0
    reserved: U8 = 0
    parameter_pointer: U16 = 0
    allocation_length: U16 = 0
    control: U8 = 0


class ReadBuffer(Struct, size=10, byte_order=">"):
    """READ BUFFER and WRITE BUFFER, SPC-4."""

    operation_code: U8 = Opcode.READ_BUFFER
    mode: U8 = 0
    buffer_id: U8 = 0
    buffer_offset: Bytes3 = bytes(3)
    allocation_length: Bytes3 = bytes(3)
    control: U8 = 0


class PersistentReserveIn(Struct, size=10, byte_order=">"):
    """PERSISTENT RESERVE IN, SPC-4."""

    operation_code: U8 = Opcode.PERSISTENT_RESERVE_IN
    service_action: U8 = 0
    reserved: Bytes5 = bytes(5)
    allocation_length: U16 = 0
    control: U8 = 0


class ScopeType(Register8):
    """PERSISTENT RESERVE OUT byte 2."""

    SCOPE = Bits(7, 4)
    TYPE = Bits(3, 0)


class PersistentReserveOut(Struct, size=10, byte_order=">"):
    """PERSISTENT RESERVE OUT, SPC-4."""

    operation_code: U8 = Opcode.PERSISTENT_RESERVE_OUT
    service_action: U8 = 0
    scope_type: U8 = 0
    reserved: Bytes2 = bytes(2)
    parameter_list_length: U32 = 0
    control: U8 = 0


class ReportSupportedOptions(Register8):
    """REPORT SUPPORTED OPERATION CODES byte 2."""

    RCTD = Bit(7)  # timeouts, too
    REPORTING_OPTIONS = Bits(2, 0)


class ReportSupported(Struct, size=12, byte_order=">"):
    """REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS, SPC-4."""

    operation_code: U8 = Opcode.MAINTENANCE_IN
    service_action: U8 = 0
    options: U8 = 0
    requested_operation_code: U8 = 0
    requested_service_action: U16 = 0
    allocation_length: U32 = 0
    reserved: U8 = 0
    control: U8 = 0
