"""Packets of a VMBus ring: a descriptor, what its type adds, a payload padded to 8 bytes.

A packet is parsed from a private copy, never from the ring: the guest can change that at any time.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from drivebay.platform.vmbus import PAGE, ChannelError
from drivebay.wire import U8, U16, U32, U64, Bit, Register16, Struct

__all__ = [
    "DESCRIPTOR",
    "FOOTER",
    "Descriptor",
    "GpaDirect",
    "GpaRange",
    "Packet",
    "PacketFlags",
    "PacketType",
    "TransferPages",
    "TransferRange",
    "parse",
]


class PacketType(enum.IntEnum):
    """What a packet is."""

    IN_BAND = 6
    TRANSFER_PAGES = 7
    GPA_DIRECT = 9
    COMPLETION = 0xB


class PacketFlags(Register16):
    """Of a descriptor."""

    COMPLETION_REQUESTED = Bit(0)


class Descriptor(Struct, size=16):
    """Before each packet; lengths in units of 8 bytes."""

    type: U16
    data_offset8: U16
    length8: U16
    flags: U16
    transaction_id: U64


class TransferPages(Struct, size=8):
    """What follows the descriptor of transfer pages; then come ranges."""

    set_id: U16
    sender_owns_set: U8
    reserved: U8
    range_count: U32


class TransferRange(Struct, size=8):
    """A range of transfer pages."""

    byte_count: U32
    byte_offset: U32


class GpaDirect(Struct, size=8):
    """What follows the descriptor of a GPA direct packet; then come ranges."""

    reserved: U32
    range_count: U32


class GpaRange(Struct, size=8):
    """Guest memory; the numbers of its pages follow, 8 bytes each."""

    length: U32
    offset: U32


DESCRIPTOR: Final = Descriptor.size
FOOTER: Final = 8
"""Behind each packet: four zero bytes, and where in the ring it began."""

GPA_DIRECT: Final = int(PacketType.GPA_DIRECT)
COMPLETION_REQUESTED: Final = int(PacketFlags.COMPLETION_REQUESTED)
unpack_descriptor: Final = Descriptor.unpack_from
unpack_direct: Final = GpaDirect.unpack_from
unpack_range: Final = GpaRange.unpack_from
unpack_transfer: Final = TransferPages.unpack_from
DIRECT: Final = DESCRIPTOR + GpaDirect.size
TRANSFER: Final = DESCRIPTOR + TransferPages.size


class Range(NamedTuple):
    """`length` bytes, from `offset` of the first of the `pages` on."""

    length: int
    offset: int
    pages: tuple[int, ...]


class Packet(NamedTuple):
    """A packet that is well formed."""

    type: int
    transaction: int | None
    """Under which its completion is awaited, if it is."""
    payload: bytes
    ranges: tuple[Range, ...] = ()
    """Of GPA direct packets. Of transfer pages they name parts of a set that the device would have
    given out, which is no memory of the guest's.
    """


def parse(data: bytes) -> Packet:
    """The packet that `data` is, without its footer. Raises `ChannelError`."""
    kind, offset8, _, flags, transaction = unpack_descriptor(data)
    start = 8 * offset8
    if flags & ~COMPLETION_REQUESTED:
        raise ChannelError(f"a packet with flags {flags:#x}")
    if not DESCRIPTOR <= start <= len(data):
        raise ChannelError(f"a packet of {len(data)} bytes with data at {start}")
    ranges: tuple[Range, ...] = ()
    if kind == GPA_DIRECT:
        ranges = _direct(data, start)
    elif kind == PacketType.TRANSFER_PAGES:
        _check_transfer(data, start)
    elif kind not in (PacketType.IN_BAND, PacketType.COMPLETION):
        raise ChannelError(f"a packet of type {kind}")
    return Packet(kind, transaction if flags else None, data[start:], ranges)


def _direct(data: bytes, end: int) -> tuple[Range, ...]:
    """The ranges of a GPA direct packet, whose payload begins at `end`."""
    if end < DIRECT:
        raise ChannelError(f"a GPA direct header of {end} bytes")
    count = unpack_direct(data, DESCRIPTOR)[1]
    if not 0 < count <= (end - DIRECT) // GpaRange.size:
        raise ChannelError(f"{count} ranges in a GPA direct header of {end} bytes")
    ranges = []
    at = DIRECT
    for _ in range(count):
        if end - at < GpaRange.size:
            raise ChannelError(f"{count} ranges leave a GPA direct header of {end} bytes")
        length, offset = unpack_range(data, at)
        at += GpaRange.size
        if offset >= PAGE:
            raise ChannelError(f"a range from {offset} of a page on")
        pages = (offset + length + PAGE - 1) // PAGE
        if pages > (end - at) // 8:
            raise ChannelError(f"{pages} pages leave a GPA direct header of {end} bytes")
        ranges.append(Range(length, offset, struct.unpack_from(f"<{pages}Q", data, at)))
        at += 8 * pages
    return tuple(ranges)


def _check_transfer(data: bytes, end: int) -> None:
    if end < TRANSFER:
        raise ChannelError(f"a transfer page header of {end} bytes")
    count = unpack_transfer(data, DESCRIPTOR)[3]
    if count > (end - TRANSFER) // TransferRange.size:
        raise ChannelError(f"{count} ranges in a transfer page header of {end} bytes")
