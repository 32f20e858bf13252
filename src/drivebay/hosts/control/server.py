"""The control socket's server: some clients at once, on the engine that it controls."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Final

from drivebay.hosts.accepting import Acceptor
from drivebay.hosts.control.messages import Refused, failure
from drivebay.hosts.control.session import Method, Session
from drivebay.hosts.stream import Stream
from drivebay.platform.engine import Engine

__all__ = ["ControlServer"]

MOST_CLIENTS: Final = 16
MOST_ANSWERS: Final = 16 << 20
"""Bytes of answers that may wait for a client."""
LOOK_AGAIN: Final = 0.02


class ControlServer(Acceptor):
    """Serves `methods` on `listener`, on the engine's thread, until `close`. `owned` is that of
    `Acceptor`.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
    ) -> None:
        self._methods = methods
        self._clients: dict[Stream, Session] = {}
        self._leaving: list[Session] = []
        super().__init__(engine, listener, owned=owned)

    def admit(self, client: socket.socket) -> None:
        """A client has come. One too many is told so."""
        if len(self._clients) >= MOST_CLIENTS:
            self.log.warning("%s: refused a client: %d are connected", self.name, MOST_CLIENTS)
            client.setblocking(False)
            why = Refused(f"{MOST_CLIENTS} clients are connected", "try again when one has left")
            with contextlib.suppress(OSError):
                client.send(failure(None, why))
            client.close()
            return
        stream = Stream(self.engine, client, most=MOST_ANSWERS)
        session = self._clients[stream] = Session(self._methods, self.engine, stream)
        stream.start(session.receive, closed=lambda: self._left(stream), room=session.room)

    def _left(self, stream: Stream) -> None:
        session = self._clients.pop(stream)
        session.hung_up()
        self._leaving = [each for each in (*self._leaving, session) if not each.at_rest]

    @property
    def at_rest(self) -> bool:
        """Whether nothing that a client began is under way."""
        return all(session.at_rest for session in (*self._clients.values(), *self._leaving))

    def close(self) -> None:
        """Serve no more, give up what is under way, and remove the socket."""
        if not self.stop():
            return
        for session in self._clients.values():
            session.cancel()
        for stream in tuple(self._clients):
            stream.close()
        self._cancel_rest()

    def _cancel_rest(self) -> None:
        """What is in a system call cannot be given up before that ends."""
        for session in self._leaving:
            session.cancel()
        if not self.at_rest:
            self.engine.after(LOOK_AGAIN, self._cancel_rest)
