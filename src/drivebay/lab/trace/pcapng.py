"""The file format pcapng (draft-ietf-opsawg-pcapng): packets with times and comments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO, Final

from drivebay.wire import U16, U32, U64, Struct

__all__ = ["LINKTYPE_RAW", "PcapngWriter"]

LINKTYPE_RAW: Final = 101
"""Packets begin with their IP header."""
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
UNKNOWN_LENGTH: Final = (1 << 64) - 1
MOST_COMMENT: Final = 4096

SECTION, INTERFACE, NAMES, PACKET = 0x0A0D0D0A, 1, 4, 6  # block types
COMMENT, USER_APPLICATION, IF_NAME, IF_DESCRIPTION, IF_TSRESOL = 1, 4, 2, 3, 9  # options
NANOSECONDS: Final = b"\x09"
IPV4_NAME: Final = 1  # of a name resolution record

Option = tuple[int, bytes]


class BlockHeader(Struct, size=8):
    """What each block begins with; its length stands at its end, too (section 3.1)."""

    type: U32
    length: U32


class SectionHeader(Struct, size=16):
    """What a section is (section 4.1)."""

    byte_order_magic: U32
    major: U16
    minor: U16
    section_length: U64


class InterfaceDescription(Struct, size=8):
    """Where packets come from (section 4.2)."""

    link_type: U16
    reserved: U16
    snap_length: U32


class EnhancedPacket(Struct, size=20):
    """A packet (section 4.3)."""

    interface: U32
    time_high: U32
    time_low: U32
    captured: U32
    length: U32


class Tlv(Struct, size=4):
    """What an option and a name record begin with (section 3.5)."""

    code: U16
    length: U16


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(options: Iterable[Option]) -> bytes:
    parts = [Tlv(code, len(value)).pack() + _padded(value) for code, value in options if value]
    return b"".join([*parts, Tlv(0, 0).pack()]) if parts else b""


class PcapngWriter:
    """Writes a section to `stream`; a file may have many, one behind the other."""

    def __init__(self, stream: BinaryIO, application: str = "drivebay") -> None:
        self._stream = stream
        self._interfaces = 0
        header = SectionHeader(BYTE_ORDER_MAGIC, 1, 0, UNKNOWN_LENGTH).pack()
        self._block(SECTION, header + _options([(USER_APPLICATION, application.encode())]))

    def _block(self, kind: int, body: bytes) -> None:
        length = BlockHeader.size + len(body) + 4
        self._stream.write(BlockHeader(kind, length).pack() + body + length.to_bytes(4, "little"))

    def interface(self, name: str, description: str) -> int:
        """A number for an interface of that name."""
        body = InterfaceDescription(LINKTYPE_RAW, 0, 0).pack()
        texts = [(IF_NAME, name.encode()), (IF_DESCRIPTION, description.encode())]
        self._block(INTERFACE, body + _options([*texts, (IF_TSRESOL, NANOSECONDS)]))
        self._interfaces += 1
        return self._interfaces - 1

    def name(self, address: bytes, name: str) -> None:
        """What the host with an IPv4 address is called (section 4.5)."""
        record = address + name.encode() + b"\0"
        body = Tlv(IPV4_NAME, len(record)).pack() + _padded(record) + Tlv(0, 0).pack()
        self._block(NAMES, body)

    def packet(self, interface: int, time: int, data: bytes, comment: str = "") -> None:
        """A packet, `time` nanoseconds since 1970."""
        head = EnhancedPacket(interface, time >> 32, time & 0xFFFFFFFF, len(data), len(data))
        said = _options([(COMMENT, comment.encode()[:MOST_COMMENT])])
        self._block(PACKET, head.pack() + _padded(data) + said)
