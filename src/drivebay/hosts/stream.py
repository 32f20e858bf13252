"""A connected socket on the engine, with answers that wait while the peer does not take them."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from drivebay.platform.engine import Engine

__all__ = ["Peer", "Stream"]

RECEIVE: Final = 1 << 16


class Peer(Protocol):
    """The other end, as a session sees it."""

    def send(self, data: bytes) -> bool:
        """Send `data`; whether there is room for more."""

    def listen(self, wanted: bool) -> None:
        """Whether to receive; what comes meanwhile stays with the peer."""

    def later(self, callback: Callable[[], None]) -> None:
        """Call `callback` when others have had a turn."""


def _nothing() -> None:
    """Until `Stream.start` says what to do."""


class Stream:
    """A peer behind `connection`. It is given up if more than `most` bytes of answers wait."""

    def __init__(self, engine: Engine, connection: socket.socket, *, most: int) -> None:
        self._engine, self._socket, self._most = engine, connection, most
        self._received: Callable[[bytes], None] = lambda _data: None
        self._closed = self._room = _nothing
        self._waiting = bytearray()
        self._open, self._listening = True, False
        # The engine watches for input only; a poll object that has something to say is input.
        self._writable = select.epoll()
        connection.setblocking(False)

    def start(
        self,
        received: Callable[[bytes], None],
        *,
        closed: Callable[[], None] = _nothing,
        room: Callable[[], None] = _nothing,
    ) -> None:
        """Receive: `received` takes what comes, `closed` is told once that the peer has gone, and
        `room` that it has taken all that had to wait.
        """
        self._received, self._closed, self._room = received, closed, room
        self.listen(True)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(data)
        else:
            self.close()

    def _look_hung_up(self) -> None:
        """We do not receive, but a peer that has gone is gone."""
        look = select.poll()
        look.register(self._socket, select.POLLRDHUP)
        if look.poll(0):
            self.close()

    def listen(self, wanted: bool) -> None:
        """Whether to receive."""
        if not self._open or wanted == self._listening:
            return
        self._listening = wanted
        self._engine.unwatch(self._socket.fileno())
        if wanted:
            self._engine.watch(self._socket.fileno(), self._readable)
        else:
            self._engine.watch(self._socket.fileno(), self._look_hung_up, edge=True)

    def later(self, callback: Callable[[], None]) -> None:
        """Call `callback` in the next turn."""
        self._engine.later(callback)

    def send(self, data: bytes) -> bool:
        """Send `data`; whether all of it, and all before, has been taken."""
        if not self._open:
            return False
        if self._waiting:
            self._waiting += data
            if len(self._waiting) > self._most:
                self._engine.later(self.close)
            return False
        sent = self._try(data)
        if self._open and sent < len(data):
            self._waiting += memoryview(data)[sent:]
            self._writable.register(self._socket.fileno(), select.EPOLLOUT)
            self._engine.watch(self._writable.fileno(), self._send_rest)
        return not self._waiting

    def _send_rest(self) -> None:
        del self._waiting[: self._try(self._waiting)]
        if self._open and not self._waiting:
            self._engine.unwatch(self._writable.fileno())
            self._writable.unregister(self._socket.fileno())
            self._room()

    def _try(self, data: bytes | bytearray) -> int:
        """How much of `data` the socket took."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._engine.later(self.close)  # whoever sends need not expect to be closed
            return 0

    def close(self) -> None:
        """Hang up."""
        if not self._open:
            return
        self._open = False
        self._engine.unwatch(self._socket.fileno())
        self._engine.unwatch(self._writable.fileno())
        self._writable.close()
        self._socket.close()
        self._closed()
