"""A ring as its front end has set it up, and the descriptors they notify each other by."""

from __future__ import annotations

import fcntl
import os
import select

from drivebay.hosts.vhost_user.messages import VringAddress
from drivebay.platform.logs import RationedLog

__all__ = ["Notifier", "Vring"]


class Notifier:
    """A descriptor that tells the front end something: an eventfd, or a pipe (User-Mode Linux).

    It shares its O_NONBLOCK with the front end, who may not care, so the flag stays as it is; one
    that may block is asked for room first.
    """

    def __init__(self, fd: int, peer_log: RationedLog) -> None:
        self.fd = fd
        self._peer_log = peer_log
        self._room: select.poll | None = None
        if fd >= 0 and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            self._room = select.poll()
            self._room.register(fd, select.POLLOUT)

    def notify(self) -> None:
        """Notify the front end, if it can be."""
        if self.fd < 0 or (self._room is not None and not self._room.poll(0)):
            return
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:  # it is full: the front end has plenty to read
            pass
        except OSError as error:
            self._peer_log.warning("vhost-user: it can no longer be notified: %s", error)
            self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self._room = -1, None


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

    def signal(self) -> None:
        """Interrupt the driver."""
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
