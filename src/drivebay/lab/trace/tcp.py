"""TCP connections that never were: packets as two hosts would send them (RFC 791, RFC 9293)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from drivebay.wire import U8, U16, U32, Bit, Register8, Struct

__all__ = ["Connection", "Endpoint"]

SEGMENT: Final = 32 << 10
"""Most bytes of data in a packet; IPv4 has room for 65495."""
TCP: Final = 6
WINDOW: Final = 0xFFFF
TICK: Final = 4000
"""Nanoseconds of the clock by which both sides choose where they begin to count (RFC 9293 section
3.4.1): a connection of the same ports that comes later is another one."""

Endpoint = tuple[bytes, int]
"""An IPv4 address and a port."""
Send = Callable[[int, bytes, str], None]
"""Told the time in nanoseconds, a packet and a comment."""


class Ipv4Header(Struct, size=20, byte_order=">"):
    """RFC 791 section 3.1."""

    version_ihl: U8
    tos: U8
    length: U16
    identification: U16
    fragment: U16
    ttl: U8
    protocol: U8
    checksum: U16
    source: Annotated[bytes, "4s"]
    destination: Annotated[bytes, "4s"]


class TcpHeader(Struct, size=20, byte_order=">"):
    """RFC 9293 section 3.1."""

    source: U16
    destination: U16
    sequence: U32
    acknowledgement: U32
    offset: U8
    flags: U8
    window: U16
    checksum: U16
    urgent: U16


class PseudoHeader(Struct, size=12, byte_order=">"):
    """What a TCP checksum covers besides (section 3.1)."""

    source: Annotated[bytes, "4s"]
    destination: Annotated[bytes, "4s"]
    protocol: U16
    length: U16


class Flags(Register8):
    """TCP's."""

    ACK = Bit(4)
    PSH = Bit(3)
    RST = Bit(2)
    SYN = Bit(1)
    FIN = Bit(0)


pack_ip, pack_tcp = Ipv4Header.layout.pack, TcpHeader.layout.pack
pack_pseudo = PseudoHeader.layout.pack

SYN, ACK, PSH = int(Flags.SYN), int(Flags.ACK), int(Flags.PSH)
IP_VERSION_AND_WORDS: Final = 0x45
DO_NOT_FRAGMENT: Final = 0x4000
TCP_WORDS: Final = 0x50
HOPS: Final = 64


def checksum(data: bytes) -> int:
    """RFC 1071. The sum with end-around carry is the remainder by 0xFFFF; of anything but zeroes it
    is never 0.
    """
    number = int.from_bytes(data + bytes(len(data) % 2))
    return ~(number % 0xFFFF or (0xFFFF if number else 0)) & 0xFFFF


class _Side:
    def __init__(self, endpoint: Endpoint, time: int) -> None:
        self.address, self.port = endpoint
        self.next = time // TICK & 0xFFFFFFFF


class Connection:
    """A connection from `host` to `device`, opened at `time`; `send` takes the packets."""

    def __init__(self, host: Endpoint, device: Endpoint, send: Send, time: int) -> None:
        self._host, self._device, self._send = _Side(host, time), _Side(device, time), send
        self._identification = 0
        self._packet(time, self._host, self._device, SYN, b"", "")
        self._packet(time, self._device, self._host, SYN | ACK, b"", "")
        self._packet(time, self._host, self._device, ACK, b"", "")

    def to_device(self, time: int, data: bytes, comment: str = "") -> None:
        """What the host sends."""
        self._stream(time, self._host, self._device, data, comment)

    def to_host(self, time: int, data: bytes, comment: str = "") -> None:
        """What the device sends."""
        self._stream(time, self._device, self._host, data, comment)

    def _stream(self, time: int, source: _Side, to: _Side, data: bytes, comment: str) -> None:
        for at in range(0, len(data), SEGMENT):
            part = data[at : at + SEGMENT]
            last = at + SEGMENT >= len(data)
            self._packet(
                time, source, to, ACK | (PSH if last else 0), part, comment if last else ""
            )

    def _packet(
        self, time: int, source: _Side, to: _Side, flags: int, data: bytes, comment: str
    ) -> None:
        length = TcpHeader.size + len(data)
        acknowledgement = to.next if flags & ACK else 0
        ends = source.port, to.port, source.next, acknowledgement
        pseudo = pack_pseudo(source.address, to.address, TCP, length)
        blank = pack_tcp(*ends, TCP_WORDS, flags, WINDOW, 0, 0)
        tcp = pack_tcp(*ends, TCP_WORDS, flags, WINDOW, checksum(pseudo + blank + data), 0)
        self._identification = self._identification + 1 & 0xFFFF
        size = Ipv4Header.size + length
        head = (IP_VERSION_AND_WORDS, 0, size, self._identification, DO_NOT_FRAGMENT, HOPS, TCP)
        addresses = source.address, to.address
        ip = pack_ip(*head, checksum(pack_ip(*head, 0, *addresses)), *addresses)
        source.next = source.next + len(data) + bool(flags & SYN) & 0xFFFFFFFF
        self._send(time, ip + tcp + data, comment)
