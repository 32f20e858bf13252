"""The vfio-user server: a UNIX socket, one client at a time, and a PCI function for it."""

from __future__ import annotations

import socket

from drivebay.hosts.connection import FIRST_MESSAGE_SECONDS, Connection, SocketServer
from drivebay.hosts.vfio_user.codec import Codec
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import MAX_FDS
from drivebay.hosts.vfio_user.session import Session
from drivebay.platform.engine import Engine
from drivebay.platform.pci import PciFunction

__all__ = ["VfioUserServer"]


class VfioUserServer(SocketServer):
    """Serves `function` on `listener`, on the engine's thread, until `close`.

    `memory` is what the function was made with: it is that of whoever is connected, and empty while
    nobody is. `owned` and `patience` are those of `SocketServer`.
    """

    max_fds = MAX_FDS
    attentive = True

    def __init__(
        self,
        function: PciFunction,
        memory: ClientMemory,
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
        patience: float = FIRST_MESSAGE_SECONDS,
    ) -> None:
        self._function, self._memory = function, memory
        super().__init__(engine, listener, owned=owned, patience=patience)

    def begin(self, connection: Connection) -> tuple[Codec, Session]:
        """A client has come."""
        session = Session(self._function, self._memory, self.engine, connection, self.log)
        return Codec(), session
