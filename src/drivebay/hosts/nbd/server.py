"""The NBD server: several clients at once, on one disk and one engine."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.hosts.accepting import Acceptor
from drivebay.hosts.nbd.connection import Connection
from drivebay.hosts.nbd.export import Export
from drivebay.hosts.nbd.memory import Pool
from drivebay.platform.engine import Engine

__all__ = ["NbdServer"]

HANDSHAKE_SECONDS: Final = 10.0
MOST_HALF_OPEN: Final = 16
"""Clients in their handshake; one more, and the first of them has to leave."""
SHARED: Final = 64


class NbdServer(Acceptor):
    """Serves `disk` as the export `name` on `listener`, on the engine's thread, until `close`.

    At most `shared` clients use it at once; each must agree on an export within `patience` seconds.
    With `tls` nobody is served without. `owned` is that of `Acceptor`.
    """

    def __init__(
        self,
        disk: Disk,
        engine: Engine,
        listener: socket.socket,
        *,
        name: str = "",
        read_only: bool = False,
        shared: int = SHARED,
        tls: ssl.SSLContext | None = None,
        owned: bool = True,
        patience: float = HANDSHAKE_SECONDS,
    ) -> None:
        self.export = Export(disk, read_only=read_only)
        self.exports = {name: self.export.offered}
        self.pool = Pool()
        self.tls, self.patience = tls, patience
        self._shared = shared
        self._clients: dict[Connection, None] = {}  # in the order they came
        super().__init__(engine, listener, owned=owned)

    @property
    def clients(self) -> Sequence[Connection]:
        """Those that are connected, and those that have left something under way."""
        return tuple(self._clients)

    @property
    def connected(self) -> bool:
        """Whether there are any."""
        return bool(self._clients)

    def admit(self, client: socket.socket) -> None:
        """A client has come."""
        half_open = [one for one in self._clients if one.half_open]
        if len(half_open) >= MOST_HALF_OPEN:
            half_open.pop(0).give_way()
        if len(self._clients) - len(half_open) >= self._shared:
            self.log.warning("%s: refused a client: %d are connected", self.name, self._shared)
            client.close()
            return
        try:
            self._clients[Connection(self, client)] = None
        except OSError as error:  # it has left again
            self.log.warning("%s: connection closed: %s", self.name, error)
            client.close()

    def gone(self, connection: Connection) -> None:
        """A client has left, and nothing of its is under way."""
        self._clients.pop(connection, None)

    def close(self) -> None:
        """Serve no more, and remove the socket."""
        if self.stop():
            for connection in self.clients:
                connection.close()
