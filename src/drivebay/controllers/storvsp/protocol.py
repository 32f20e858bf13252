"""What a StorVSC and a StorVSP say to each other, in packets of a ring."""

from __future__ import annotations

import enum
from typing import Annotated, Final

from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Register32, Struct

__all__ = [
    "MOST_SENSE",
    "SCSI_REQUEST_V1",
    "SCSI_REQUEST_V2",
    "VERSIONS",
    "ChannelProperties",
    "Header",
    "NtStatus",
    "Operation",
    "PropertyFlags",
    "ProtocolVersion",
    "QueueAction",
    "ScsiPacket",
    "SrbCode",
    "SrbFlags",
    "SrbStatus",
    "SubChannels",
    "Version",
]

SCSI_REQUEST_V1: Final = 0x24
SCSI_REQUEST_V2: Final = 0x34
MOST_SENSE: Final = 20


class Operation(enum.IntEnum):
    """What a packet asks for, or tells."""

    COMPLETE_IO = 1
    REMOVE_DEVICE = 2
    EXECUTE_SRB = 3
    RESET_LUN = 4
    RESET_ADAPTER = 5
    RESET_BUS = 6
    BEGIN_INITIALIZATION = 7
    END_INITIALIZATION = 8
    QUERY_PROTOCOL_VERSION = 9
    QUERY_PROPERTIES = 10
    ENUMERATE_BUS = 11
    FC_HBA_DATA = 12
    CREATE_SUB_CHANNELS = 13
    EVENT_NOTIFICATION = 14


class Version(enum.IntEnum):
    """Major in the upper byte, minor in the lower."""

    WIN6 = 0x0200
    WIN7 = 0x0402
    WIN8 = 0x0501
    BLUE = 0x0600
    THRESHOLD = 0x0602


VERSIONS: Final = (Version.WIN6, Version.WIN7, Version.WIN8, Version.BLUE)
"""Those that are spoken here."""


class NtStatus(enum.IntEnum):
    """How an operation ended."""

    SUCCESS = 0
    BUFFER_OVERFLOW = 0x80000005
    DEVICE_BUSY = 0x80000011
    UNSUCCESSFUL = 0xC0000001
    NOT_IMPLEMENTED = 0xC0000002
    INVALID_PARAMETER = 0xC000000D
    INVALID_DEVICE_REQUEST = 0xC0000010
    REVISION_MISMATCH = 0xC0000059
    DEVICE_NOT_CONNECTED = 0xC000009D
    IO_TIMEOUT = 0xC00000B5
    DEVICE_DOES_NOT_EXIST = 0xC00000C0
    CANCELLED = 0xC0000120
    INVALID_DEVICE_STATE = 0xC0000184
    IO_DEVICE_ERROR = 0xC0000185


class SrbCode(enum.IntEnum):
    """Of a SCSI request block, how its command ended."""

    PENDING = 0x00
    SUCCESS = 0x01
    ABORTED = 0x02
    ABORT_FAILED = 0x03
    ERROR = 0x04
    BUSY = 0x05
    INVALID_REQUEST = 0x06
    INVALID_PATH_ID = 0x07
    NO_DEVICE = 0x08
    TIMEOUT = 0x09
    SELECTION_TIMEOUT = 0x0A
    COMMAND_TIMEOUT = 0x0B
    MESSAGE_REJECTED = 0x0D
    BUS_RESET = 0x0E
    PARITY_ERROR = 0x0F
    REQUEST_SENSE_FAILED = 0x10
    NO_HBA = 0x11
    DATA_OVERRUN = 0x12
    UNEXPECTED_BUS_FREE = 0x13
    PHASE_SEQUENCE_FAILURE = 0x14
    BAD_SRB_BLOCK_LENGTH = 0x15
    REQUEST_FLUSHED = 0x16
    INVALID_LUN = 0x20
    INVALID_TARGET_ID = 0x21
    BAD_FUNCTION = 0x22
    ERROR_RECOVERY = 0x23
    NOT_POWERED = 0x24
    LINK_DOWN = 0x25


class SrbStatus(Register8):
    """`ScsiPacket.srb_status`."""

    AUTOSENSE_VALID = Bit(7)
    QUEUE_FROZEN = Bit(6)
    STATUS = Bits(5, 0, SrbCode)


class SrbFlags(Register32):
    """`ScsiPacket.srb_flags`."""

    QUEUE_ACTION_ENABLE = Bit(1)


class QueueAction(enum.IntEnum):
    """`ScsiPacket.queue_action`."""

    SIMPLE = 0x20
    HEAD_OF_QUEUE = 0x21
    ORDERED = 0x22


class Header(Struct, size=12):
    """Before each packet's payload."""

    operation: U32
    flags: U32 = 0
    status: U32 = 0


class ScsiPacket(Struct, size=64):
    """EXECUTE_SRB, and its end, COMPLETE_IO: a header and a SCSI request. Up to WIN7 it ends after
    `payload`.
    """

    operation: U32 = Operation.EXECUTE_SRB
    flags: U32 = 0
    status: U32 = 0
    length: U16 = SCSI_REQUEST_V2
    srb_status: U8 = 0
    scsi_status: U8 = 0
    port: U8 = 0
    path_id: U8 = 0
    target_id: U8 = 0
    lun: U8 = 0
    cdb_length: U8 = 0
    sense_length: U8 = MOST_SENSE
    data_in: U8 = 0
    properties: U8 = 0
    data_length: U32 = 0
    payload: Annotated[bytes, "20s"] = b""  # CDB, then sense
    reserved: U16 = 0
    queue_tag: U8 = 0
    queue_action: U8 = 0
    srb_flags: U32 = 0
    timeout: U32 = 0
    queue_sort_key: U32 = 0


class ProtocolVersion(Struct, size=4):
    """QUERY_PROTOCOL_VERSION."""

    version: U16
    revision: U16 = 0


class PropertyFlags(Register32):
    """`ChannelProperties.flags`."""

    MULTI_CHANNEL = Bit(0)


class ChannelProperties(Struct, size=24):
    """QUERY_PROPERTIES."""

    reserved: U32 = 0
    max_sub_channels: U16 = 0
    reserved_1: U16 = 0
    flags: U32 = 0
    max_transfer: U32 = 0x40000
    reserved_2: U32 = 0
    reserved_3: U32 = 0


class SubChannels(Struct, size=2):
    """CREATE_SUB_CHANNELS."""

    count: U16
