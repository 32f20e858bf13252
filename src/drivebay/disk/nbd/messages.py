"""The messages of the NBD protocol (doc/proto.md of NetworkBlockDevice/nbd), as on the wire."""

from __future__ import annotations

import enum
from typing import Final

from drivebay.wire import U16, U32, U64, Bit, Register16, Register32, Struct

__all__ = [
    "ALLOCATION",
    "MOST_NAME",
    "MOST_OPTION",
    "MOST_PAYLOAD",
    "PORT",
    "BlockStatus",
    "ChunkHeader",
    "ChunkType",
    "ClientFlags",
    "Command",
    "CommandFlags",
    "ContextId",
    "Error",
    "ErrorChunk",
    "Greeting",
    "HandshakeFlags",
    "Hole",
    "Info",
    "InfoBlockSize",
    "InfoExport",
    "NbdError",
    "OffsetData",
    "OldExport",
    "Option",
    "OptionHeader",
    "Rep",
    "RepHeader",
    "ReplyFlags",
    "RequestHeader",
    "SimpleReply",
    "StatusFlags",
    "TransmissionFlags",
    "name_of",
]

PORT: Final = 10809
ALLOCATION: Final = "base:allocation"
MOST_NAME: Final = 4096
"""Bytes of a string ("Values")."""
MOST_OPTION: Final = 1 << 16
"""Bytes of an option's data, or of a reply's, that we read: some strings."""
MOST_PAYLOAD: Final = 32 << 20
"""Bytes of data in a request where no other maximum is agreed on ("Block size constraints")."""

NBDMAGIC: Final = 0x4E42444D41474943
IHAVEOPT: Final = 0x49484156454F5054
REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_MAGIC: Final = 0x67446698
CHUNK_MAGIC: Final = 0x668E33EF


class NbdError(Exception):
    """The peer broke the protocol, or refuses what we need: the connection is of no use."""


# -- handshake -------------------------------------------------------------------------------------


class HandshakeFlags(Register16):
    """What the server offers before any option."""

    NO_ZEROES = Bit(1)
    FIXED_NEWSTYLE = Bit(0)


class ClientFlags(Register32):
    """What the client takes of it."""

    NO_ZEROES = Bit(1)
    FIXED_NEWSTYLE = Bit(0)


class Greeting(Struct, size=18, byte_order=">"):
    """The server speaks first."""

    magic: U64
    option_magic: U64
    flags: U16


class Option(enum.IntEnum):
    """NBD_OPT_*."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class OptionHeader(Struct, size=16, byte_order=">"):
    """A client's option; `length` bytes follow."""

    magic: U64
    option: U32
    length: U32


class Rep(enum.IntEnum):
    """NBD_REP_*; those from 2^31 on are errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = (1 << 31) + 1
    ERR_POLICY = (1 << 31) + 2
    ERR_INVALID = (1 << 31) + 3
    ERR_PLATFORM = (1 << 31) + 4
    ERR_TLS_REQD = (1 << 31) + 5
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_SHUTDOWN = (1 << 31) + 7
    ERR_BLOCK_SIZE_REQD = (1 << 31) + 8
    ERR_TOO_BIG = (1 << 31) + 9


ERROR_BIT: Final = 1 << 31


class RepHeader(Struct, size=20, byte_order=">"):
    """The server's reply to an option; `length` bytes follow."""

    magic: U64
    option: U32
    type: U32
    length: U32


class ContextId(Struct, size=4, byte_order=">"):
    """What begins a context in REP_META_CONTEXT, and a BLOCK_STATUS chunk."""

    context: U32


class OldExport(Struct, size=10, byte_order=">"):
    """The answer to EXPORT_NAME; 124 zeroes follow where the client has not refused them."""

    export_size: U64
    flags: U16


class Info(enum.IntEnum):
    """NBD_INFO_*."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class InfoExport(Struct, size=12, byte_order=">"):
    """NBD_INFO_EXPORT."""

    type: U16
    export_size: U64
    flags: U16


class InfoBlockSize(Struct, size=14, byte_order=">"):
    """NBD_INFO_BLOCK_SIZE, in bytes."""

    type: U16
    minimum: U32
    preferred: U32
    maximum: U32


class TransmissionFlags(Register16):
    """What an export can do."""

    BLOCK_STATUS_PAYLOAD = Bit(12)
    SEND_FAST_ZERO = Bit(11)
    SEND_CACHE = Bit(10)
    SEND_RESIZE = Bit(9)
    CAN_MULTI_CONN = Bit(8)
    SEND_DF = Bit(7)
    SEND_WRITE_ZEROES = Bit(6)
    SEND_TRIM = Bit(5)
    ROTATIONAL = Bit(4)
    SEND_FUA = Bit(3)
    SEND_FLUSH = Bit(2)
    READ_ONLY = Bit(1)
    HAS_FLAGS = Bit(0)


# -- transmission ----------------------------------------------------------------------------------


class Command(enum.IntEnum):
    """NBD_CMD_*."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlags(Register16):
    """NBD_CMD_FLAG_*."""

    FAST_ZERO = Bit(4)
    REQ_ONE = Bit(3)
    DF = Bit(2)
    NO_HOLE = Bit(1)
    FUA = Bit(0)


class RequestHeader(Struct, size=28, byte_order=">"):
    """A request; the data of a WRITE follow."""

    magic: U32
    flags: U16
    type: U16
    cookie: U64
    offset: U64
    length: U32


class SimpleReply(Struct, size=16, byte_order=">"):
    """The answer to a request; without structured replies, the data of a READ follow."""

    magic: U32
    error: U32
    cookie: U64


class ChunkType(enum.IntEnum):
    """NBD_REPLY_TYPE_*; those from 2^15 on are errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    ERROR = (1 << 15) + 1
    ERROR_OFFSET = (1 << 15) + 2


class ReplyFlags(Register16):
    """Of a chunk."""

    DONE = Bit(0)


class ChunkHeader(Struct, size=20, byte_order=">"):
    """A part of a structured reply; `length` bytes follow."""

    magic: U32
    flags: U16
    type: U16
    cookie: U64
    length: U32


class OffsetData(Struct, size=28, byte_order=">"):
    """The chunk header of OFFSET_DATA and where its data belong; `length` counts both."""

    magic: U32
    flags: U16
    type: U16
    cookie: U64
    length: U32
    offset: U64


class Hole(Struct, size=12, byte_order=">"):
    """The payload of OFFSET_HOLE."""

    offset: U64
    length: U32


class ErrorChunk(Struct, size=6, byte_order=">"):
    """What begins the payload of ERROR; a message of `length` bytes follows."""

    error: U32
    length: U16


class BlockStatus(Struct, size=8, byte_order=">"):
    """An extent of BLOCK_STATUS, after the number of its context."""

    length: U32
    flags: U32


class StatusFlags(Register32):
    """Of base:allocation."""

    ZERO = Bit(1)
    HOLE = Bit(0)


class Error(enum.IntEnum):
    """Error values: Linux's numbers, of which a client need only know these."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


def name_of(kind: type[enum.IntEnum], number: int) -> str:
    """What `number` is called, for people."""
    known = kind._value2member_map_
    return kind(number).name if number in known else f"{kind.__name__} {number}"
