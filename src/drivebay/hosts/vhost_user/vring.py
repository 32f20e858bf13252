"""A ring as its front end has set it up, and the descriptors they notify each other by."""

from __future__ import annotations

import os

from drivebay.hosts.peer import Notifier
from drivebay.hosts.vhost_user.messages import VringAddress
from drivebay.platform.logs import RationedLog
from drivebay.platform.onlooker import Onlooker

__all__ = ["Vring"]


class Vring:
    """A ring as the front end has set it up so far."""

    def __init__(self, index: int, peer_log: RationedLog) -> None:
        self.index = index
        self._peer_log = peer_log
        self.size = 0
        self.position: int | None = None
        self.address: VringAddress | None = None
        self.kick = -1
        self.call, self.err = Notifier(-1, peer_log), Notifier(-1, peer_log)
        self.enabled = self.running = False
        self.onlooker: Onlooker | None = None

    def signal(self) -> None:
        """Interrupt the driver."""
        if self.onlooker is not None:
            self.onlooker.interrupt(f"queue {self.index}", None)
        self.call.notify()

    def set_kick(self, fd: int) -> None:
        """This is the descriptor of its kicks now, or -1."""
        if self.kick >= 0:
            os.close(self.kick)
        self.kick = fd

    def set_call(self, fd: int) -> None:
        """This is where the driver is interrupted now, or -1."""
        self.call.close()
        self.call = Notifier(fd, self._peer_log)

    def set_err(self, fd: int) -> None:
        """This is where the front end is told of a broken ring now, or -1."""
        self.err.close()
        self.err = Notifier(fd, self._peer_log)

    def rest(self) -> None:
        """It was stopped by GET_VRING_BASE; QEMU says only once where errors go to."""
        self.set_kick(-1)
        self.set_call(-1)

    def close(self) -> None:
        """Close all descriptors."""
        self.rest()
        self.set_err(-1)
