"""Bytes in, messages out: the vhost-user wire without a socket.

Feed it exactly the bytes it wants next::

    codec = Codec()
    while True:
        data, fds = receive(codec.wanted)
        for message in codec.receive(data, fds): ...

Descriptors belong to the message whose header they came with, and a reader that takes more bytes
than `wanted` could get those of a later message early. Whoever gets a message owns its descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from drivebay.hosts.peer import PeerError, close_all
from drivebay.hosts.vhost_user.messages import (
    MAX_REGIONS,
    BackendRequest,
    Flags,
    Header,
    Request,
)

__all__ = ["MAX_FDS", "Codec", "Message", "PeerError", "backend_request", "encode", "reply"]

VERSION: Final = 1
MAX_PAYLOAD: Final = 4096
MAX_FDS: Final = MAX_REGIONS
"""Most descriptors of a message: SET_MEM_TABLE has the most."""


class Message(NamedTuple):
    """A request, or the answer to one."""

    request: int
    flags: Flags
    payload: bytes
    fds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in the specification."""
        return Request(self.request).name if self.request in _NAMES else f"request {self.request}"

    def close_fds(self) -> None:
        """Close the descriptors that came with it."""
        close_all(self.fds)


_NAMES: Final = frozenset(Request)


class Codec:
    """The receiving half of a connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._header: Header | None = None

    @property
    def wanted(self) -> int:
        """How many bytes are missing from the header or the payload under way."""
        whole = Header.size if self._header is None else self._header.length
        return whole - len(self._buffer)

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> list[Message]:
        """Take at most `wanted` bytes; the message that they end, if any. Raises `PeerError`."""
        self._buffer += data
        self._fds += fds
        if len(self._fds) > MAX_FDS:
            raise PeerError(f"more than {MAX_FDS} descriptors in a message")
        if self.wanted > 0:
            return []
        if self._header is None:
            self._header = self._parse_header()
            if self._header.length:
                return []
        header, payload = self._header, bytes(self._buffer)
        if not header.length:
            payload = b""
        message = Message(header.request, Flags(header.flags), payload, tuple(self._fds))
        self._header, self._fds = None, []
        self._buffer.clear()
        return [message]

    def _parse_header(self) -> Header:
        header = Header.unpack(self._buffer)
        self._buffer.clear()
        flags = Flags(header.flags)
        if flags.VERSION != VERSION:
            raise PeerError(
                f"protocol version {flags.VERSION}, expected {VERSION}: "
                "is this a vhost-user front end?"
            )
        if header.length > MAX_PAYLOAD:
            raise PeerError(f"a payload of {header.length} bytes")
        return header

    def close(self) -> None:
        """Close the descriptors of a message that never became whole."""
        close_all(self._fds)
        self._fds = []


def encode(request: int, payload: bytes = b"", **flags: int) -> bytes:
    """A message with these flags set."""
    return Header(request, Flags.of(VERSION=VERSION, **flags), len(payload)).pack() + payload


def reply(message: Message, payload: bytes) -> bytes:
    """The answer to `message`."""
    return encode(message.request, payload, REPLY=1)


def backend_request(request: BackendRequest) -> bytes:
    """A request of ours to the front end that needs no answer."""
    return encode(request)
