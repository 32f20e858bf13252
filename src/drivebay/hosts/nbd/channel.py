"""What a client's bytes go through: its socket, or TLS over it. Nothing here waits."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from drivebay.disk.nbd.tls import TlsStream

__all__ = ["Channel", "SecureChannel"]

RECORDS: Final = 1 << 18
"""Bytes that are encrypted at once."""


class Channel:
    """A socket that does not block."""

    holds_back = False
    """Whether it may have what the socket no longer has, so that nothing wakes us for it."""
    settled = True
    """Whether nothing that was taken is still to be sent."""

    def __init__(self, client: socket.socket) -> None:
        self.socket = client

    def recv_into(self, view: memoryview) -> int:
        """Receive; 0 at the end. Raises `BlockingIOError` and `OSError`."""
        return self.socket.recv_into(view)

    def send(self, parts: Sequence[memoryview | bytes]) -> int:
        """Send some of `parts`; how many bytes were taken. Raises `OSError`."""
        try:
            return self.socket.sendmsg(parts)
        except BlockingIOError:
            return 0

    def push(self) -> None:
        """Send what was taken before. Raises `OSError`."""


class SecureChannel(Channel):
    """`stream` over a socket."""

    holds_back = True

    def __init__(self, client: socket.socket, stream: TlsStream) -> None:
        super().__init__(client)
        self._stream = stream
        self._rest = memoryview(b"")

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. Raises `NbdError` and `OSError`."""
        done = self._stream.handshake()
        while True:
            self.send([])
            if done:
                return True
            try:
                data = self.socket.recv(RECORDS)
            except BlockingIOError:
                return False
            self._stream.feed(data)
            done = self._stream.handshake()

    def recv_into(self, view: memoryview) -> int:
        """Receive; 0 at the end."""
        while True:
            try:
                return self._stream.read_into(view)
            except BlockingIOError:
                self._stream.feed(self.socket.recv(RECORDS))

    def send(self, parts: Sequence[memoryview | bytes]) -> int:
        """Encrypt and send; more is taken only when all before has gone."""
        self.push()
        if not self.settled:
            return 0
        count, some = 0, []
        for part in parts:
            some.append(part[: RECORDS - count])
            count += len(some[-1])
        self._rest = memoryview(self._stream.write(some))
        self.push()
        return count

    def push(self) -> None:
        """Send what was encrypted before."""
        if self._rest:
            self._rest = self._rest[super().send([self._rest]) :]

    @property
    def settled(self) -> bool:  # type: ignore[override]
        """Whether all of it has gone."""
        return not self._rest
