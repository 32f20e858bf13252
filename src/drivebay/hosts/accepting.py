"""What every server on a socket does: wait for clients, on the engine's thread."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from abc import ABC, abstractmethod

from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog

__all__ = ["Acceptor"]

log = logging.getLogger(__name__)


class Acceptor(ABC):
    """Lets clients in on `listener`, until `stop`, which removes the socket from the file system
    if it is `owned`: one that was inherited is somebody else's.
    """

    def __init__(self, engine: Engine, listener: socket.socket, *, owned: bool = True) -> None:
        self.engine, self._listener = engine, listener
        self._is_path = owned and listener.family == socket.AF_UNIX
        self.log = RationedLog(log)  # a client that comes back at once may do so for ever
        self._stopped = False
        self.name = str(listener.getsockname())
        listener.setblocking(False)
        self._watch()

    @abstractmethod
    def admit(self, client: socket.socket) -> None:
        """A client has come; the socket is ours now."""

    def _watch(self) -> None:
        if not self._stopped:
            self.engine.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, say: it can only get better
            self.log.warning("%s: a client cannot be accepted: %s", self.name, error)
            self.engine.unwatch(self._listener.fileno())
            self.engine.after(1.0, self._watch)
            return
        log.debug("%s: a client has connected", self.name)
        self.admit(client)

    def stop(self) -> bool:
        """Let nobody in any more, and remove the socket; False if that has been done."""
        if self._stopped:
            return False
        self._stopped = True
        self.engine.unwatch(self._listener.fileno())
        self._listener.close()
        if self._is_path:
            with contextlib.suppress(OSError):
                os.unlink(self.name)
        return True
