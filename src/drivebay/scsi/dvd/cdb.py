"""Command descriptor blocks of MMC-6, declared as in `drivebay.scsi.cdb`."""

from __future__ import annotations

from typing import Annotated

from drivebay.scsi.opcodes import Opcode
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

__all__ = [
    "GetConfiguration",
    "GetConfigurationFlags",
    "GetEventStatusNotification",
    "GetPerformance",
    "GetPerformanceFlags",
    "MechanismStatus",
    "Polled",
    "ReadBufferCapacity",
    "ReadCd",
    "ReadCdFlags",
    "ReadCdMsf",
    "ReadCdSelection",
    "ReadDiscInformation",
    "ReadDiscStructure",
    "ReadSubChannel",
    "ReadTocPmaAtip",
    "ReadTrackInformation",
    "SetCdSpeed",
    "SetStreaming",
    "TimeFlags",
    "TrackFlags",
]

Bytes3 = Annotated[bytes, "3s"]
Bytes5 = Annotated[bytes, "5s"]


class ReadCdFlags(Register8):
    """READ CD byte 1."""

    EXPECTED_SECTOR_TYPE = Bits(4, 2)
    DAP = Bit(1)
    RELADR = Bit(0)


class ReadCdSelection(Register8):
    """READ CD byte 9: which parts of each sector are wanted."""

    SYNC = Bit(7)
    HEADER_CODES = Bits(6, 5)
    USER_DATA = Bit(4)
    EDC_ECC = Bit(3)
    C2_ERROR = Bits(2, 1)


class ReadCd(Struct, size=12, byte_order=">"):
    """READ CD, MMC-6."""

    operation_code: U8 = Opcode.READ_CD
    flags: U8 = 0
    starting_logical_block_address: U32 = 0
    transfer_length: Bytes3 = bytes(3)
    selection: U8 = 0
    sub_channel_selection: U8 = 0
    control: U8 = 0


class ReadCdMsf(Struct, size=12, byte_order=">"):
    """READ CD MSF, MMC-6."""

    operation_code: U8 = Opcode.READ_CD_MSF
    flags: U8 = 0
    reserved: U8 = 0
    starting_msf: Bytes3 = bytes(3)
    ending_msf: Bytes3 = bytes(3)
    """The first block that is not read."""
    selection: U8 = 0
    sub_channel_selection: U8 = 0
    control: U8 = 0


class TimeFlags(Register8):
    """READ TOC/PMA/ATIP and READ SUB-CHANNEL byte 1."""

    MSF = Bit(1)  # addresses as minute, second, frame


class ReadTocPmaAtip(Struct, size=10, byte_order=">"):
    """READ TOC PMA ATIP, MMC-6."""

    operation_code: U8 = Opcode.READ_TOC_PMA_ATIP
    flags: U8 = 0
    format: U8 = 0
    reserved: Bytes3 = bytes(3)
    track_session_number: U8 = 0
    allocation_length: U16 = 0
    control: U8 = 0
    """Bits 7 and 6: the format, as SFF-8020 had it."""


class ReadSubChannel(Struct, size=10, byte_order=">"):
    """READ SUB CHANNEL, MMC-3."""

    operation_code: U8 = Opcode.READ_SUB_CHANNEL
    flags: U8 = 0
    subq: U8 = 0
    """Bit 6: Q sub-channel data, not only the header."""
    format: U8 = 0
    reserved: U16 = 0
    track_number: U8 = 0
    allocation_length: U16 = 0
    control: U8 = 0


class GetConfigurationFlags(Register8):
    """GET CONFIGURATION byte 1."""

    RT = Bits(1, 0)


class GetConfiguration(Struct, size=10, byte_order=">"):
    """GET CONFIGURATION, MMC-6."""

    operation_code: U8 = Opcode.GET_CONFIGURATION
    flags: U8 = 0
    starting_feature_number: U16 = 0
    reserved: Bytes3 = bytes(3)
    allocation_length: U16 = 0
    control: U8 = 0


class Polled(Register8):
    """GET EVENT STATUS NOTIFICATION byte 1."""

    POLLED = Bit(0)


class GetEventStatusNotification(Struct, size=10, byte_order=">"):
    """GET EVENT STATUS NOTIFICATION, MMC-6."""

    operation_code: U8 = Opcode.GET_EVENT_STATUS_NOTIFICATION
    flags: U8 = 0
    reserved: U16 = 0
    notification_class_request: U8 = 0
    reserved_2: U16 = 0
    allocation_length: U16 = 0
    control: U8 = 0


class ReadDiscInformation(Struct, size=10, byte_order=">"):
    """READ DISC INFORMATION, MMC-6."""

    operation_code: U8 = Opcode.READ_DISC_INFORMATION
    data_type: U8 = 0
    reserved: Bytes5 = bytes(5)
    allocation_length: U16 = 0
    control: U8 = 0


class TrackFlags(Register8):
    """READ TRACK INFORMATION byte 1."""

    OPEN = Bit(2)
    ADDRESS_NUMBER_TYPE = Bits(1, 0)


class ReadTrackInformation(Struct, size=10, byte_order=">"):
    """READ TRACK INFORMATION, MMC-6."""

    operation_code: U8 = Opcode.READ_TRACK_INFORMATION
    flags: U8 = 0
    logical_block_address_track_session_number: U32 = 0
    reserved: U8 = 0
    allocation_length: U16 = 0
    control: U8 = 0


class ReadBufferCapacity(Struct, size=10, byte_order=">"):
    """READ BUFFER CAPACITY, MMC-6."""

    operation_code: U8 = Opcode.READ_BUFFER_CAPACITY
    block: U8 = 0
    """Bit 0: answer in blocks, not in bytes."""
    reserved: Bytes5 = bytes(5)
    allocation_length: U16 = 0
    control: U8 = 0


class GetPerformanceFlags(Register8):
    """GET PERFORMANCE byte 1 where the type is performance."""

    TOLERANCE = Bits(4, 3)
    WRITE = Bit(2)
    EXCEPT = Bits(1, 0)


class GetPerformance(Struct, size=12, byte_order=">"):
    """GET PERFORMANCE, MMC-6."""

    operation_code: U8 = Opcode.GET_PERFORMANCE
    data_type: U8 = 0
    starting_lba: U32 = 0
    reserved: U16 = 0
    maximum_number_of_descriptors: U16 = 0
    type: U8 = 0
    control: U8 = 0


class ReadDiscStructure(Struct, size=12, byte_order=">"):
    """READ DISC STRUCTURE, MMC-6, which was READ DVD STRUCTURE before."""

    operation_code: U8 = Opcode.READ_DISC_STRUCTURE
    media_type: U8 = 0
    address: U32 = 0
    layer_number: U8 = 0
    format: U8 = 0
    allocation_length: U16 = 0
    agid: U8 = 0
    control: U8 = 0


class SetStreaming(Struct, size=12, byte_order=">"):
    """SET STREAMING, MMC-6."""

    operation_code: U8 = Opcode.SET_STREAMING
    reserved: Annotated[bytes, "7s"] = bytes(7)
    type: U8 = 0
    parameter_list_length: U16 = 0
    control: U8 = 0


class SetCdSpeed(Struct, size=12, byte_order=">"):
    """SET CD SPEED, MMC-6; speeds in units of 1000 bytes a second."""

    operation_code: U8 = Opcode.SET_CD_SPEED
    rotational_control: U8 = 0
    read_speed: U16 = 0
    write_speed: U16 = 0
    reserved: Bytes5 = bytes(5)
    control: U8 = 0


class MechanismStatus(Struct, size=12, byte_order=">"):
    """MECHANISM STATUS, MMC-6."""

    operation_code: U8 = Opcode.MECHANISM_STATUS
    reserved: Annotated[bytes, "7s"] = bytes(7)
    allocation_length: U16 = 0
    reserved_2: U8 = 0
    control: U8 = 0
