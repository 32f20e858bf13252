"""A page of text by HTTP, for Prometheus: each GET of /metrics is answered and the connection
closed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from drivebay.hosts.accepting import Acceptor
from drivebay.hosts.stream import Stream
from drivebay.platform.engine import Engine

__all__ = ["ScrapeServer"]

MOST_CLIENTS: Final = 16
MOST_REQUEST: Final = 8192
"""Bytes of a request's head."""
MOST_ANSWER: Final = 64 << 20
PATIENCE: Final = 10.0
"""Seconds that a client may take from the first byte to the last."""
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class ScrapeServer(Acceptor):
    """Answers with what `render` gives, on the engine's thread, until `close`. `owned` is that of
    `Acceptor`.
    """

    def __init__(
        self,
        render: Callable[[], str],
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
    ) -> None:
        self._render = render
        self._clients: set[_Client] = set()
        super().__init__(engine, listener, owned=owned)

    def admit(self, client: socket.socket) -> None:
        """A client has come."""
        if len(self._clients) >= MOST_CLIENTS:
            client.close()
            return
        self._clients.add(_Client(self.engine, client, self._answer, self._clients.discard))

    def _answer(self, head: bytes) -> bytes:
        """What a request gets."""
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _reply("400 Bad Request", "that is no HTTP\n")
        if words[0] not in (b"GET", b"HEAD"):
            return _reply("405 Method Not Allowed", "GET /metrics\n", "Allow: GET, HEAD\r\n")
        if words[1].partition(b"?")[0] != b"/metrics":
            return _reply("404 Not Found", "GET /metrics\n")
        return _reply("200 OK", self._render(), body=words[0] == b"GET")

    def close(self) -> None:
        """Serve no more, and remove the socket."""
        if self.stop():
            for client in tuple(self._clients):
                client.close()


class _Client:
    def __init__(
        self,
        engine: Engine,
        connection: socket.socket,
        answer: Callable[[bytes], bytes],
        left: Callable[[_Client], None],
    ) -> None:
        self._answer = answer
        self._head = bytearray()
        self._stream = Stream(engine, connection, most=MOST_ANSWER)
        self._timer = engine.after(PATIENCE, self.close)
        self._later = engine.later
        self._left = left
        self._stream.start(self._receive, closed=self._closed, room=self.close)

    def _receive(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0 and len(self._head) <= MOST_REQUEST:
            return
        self._stream.listen(False)
        if self._stream.send(self._answer(bytes(self._head))):
            self._later(self.close)

    def _closed(self) -> None:
        self._timer.cancel()
        self._left(self)

    def close(self) -> None:
        """Hang up."""
        self._stream.close()


def _reply(status: str, text: str, more: str = "", *, body: bool = True) -> bytes:
    data = text.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {TEXT}\r\nContent-Length: {len(data)}\r\n"
        f"Connection: close\r\n{more}\r\n"
    )
    return head.encode() + (data if body else b"")
