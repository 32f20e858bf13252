"""The vhost-user server: a UNIX socket, one front end at a time."""

from __future__ import annotations

import socket

from drivebay.hosts.connection import FIRST_MESSAGE_SECONDS, Connection, SocketServer
from drivebay.hosts.listening import ServerError, inherited_sockets, listen
from drivebay.hosts.vhost_user.codec import MAX_FDS, Codec
from drivebay.hosts.vhost_user.session import Session
from drivebay.platform.engine import Engine
from drivebay.platform.virtio import Device

__all__ = ["ServerError", "VhostUserServer", "inherited_sockets", "listen"]


class VhostUserServer(SocketServer):
    """Serves `device` on `listener`, on the engine's thread, until `close`.

    `owned` and `patience` are those of `SocketServer`. Without `config` the configuration space is
    the front end's own business, as for QEMU's SCSI host.
    """

    max_fds = MAX_FDS

    def __init__(
        self,
        device: Device,
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
        patience: float = FIRST_MESSAGE_SECONDS,
        config: bool = True,
    ) -> None:
        self._device, self._config = device, config
        super().__init__(engine, listener, owned=owned, patience=patience)

    def begin(self, connection: Connection) -> tuple[Codec, Session]:
        """A front end has come."""
        session = Session(
            self._device,
            self.engine,
            connection.send,
            connection.resumed,
            self.log,
            config=self._config,
        )
        return Codec(), session
