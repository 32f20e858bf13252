"""What servers have in common of their peers: mistakes, descriptors, and memory that is shared."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import select
from collections.abc import Iterable
from typing import Final

from drivebay.platform.logs import RationedLog

__all__ = ["Notifier", "PeerError", "close_all", "map_file"]

MAX_BYTES: Final = (1 << 63) - 1

log = logging.getLogger(__name__)

_unsealed_told: list[int] = []


class PeerError(Exception):
    """The peer broke the protocol: the connection must be closed."""


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


class Notifier:
    """A descriptor that tells the peer something: an eventfd, or a pipe (User-Mode Linux).

    It shares its O_NONBLOCK with the peer, who may not care, so the flag stays as it is; one that
    may block is asked for room first.
    """

    def __init__(self, fd: int, peer_log: RationedLog) -> None:
        self.fd = fd
        self._peer_log = peer_log
        self._room: select.poll | None = None
        if fd >= 0 and not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
            self._room = select.poll()
            self._room.register(fd, select.POLLOUT)

    def notify(self) -> None:
        """Notify the peer, if it can be."""
        if self.fd < 0 or (self._room is not None and not self._room.poll(0)):
            return
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:  # it is full: the peer has plenty to read
            pass
        except OSError as error:
            self._peer_log.warning("it can no longer be notified: %s", error)
            self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd, self._room = -1, None


def map_file(fd: int, offset: int, length: int, access: int = mmap.ACCESS_WRITE) -> memoryview:
    """`length` bytes at `offset` of the peer's file. Raises `PeerError`.

    It is mapped from its start: an offset into huge pages need not be a multiple of them. The
    view's `obj` is the mapping.
    """
    end = offset + length
    if not length or end > MAX_BYTES:
        raise PeerError(f"a memory region of {length} bytes at {offset:#x}")
    try:
        if os.fstat(fd).st_size < end:
            raise PeerError(f"a memory region that ends at {end:#x}, past its file's end")
        mapping = mmap.mmap(fd, end, access=access)
        _look_sealed(fd)
    except (OSError, ValueError, OverflowError) as error:
        raise PeerError(f"a memory region cannot be mapped: {error}") from None
    return memoryview(mapping)[offset:end]


def _look_sealed(fd: int) -> None:
    """Tell, once, of memory that its owner can truncate: a look at what is gone ends this process.

    Nothing can be done about that here (a SIGBUS in the midst of a load or store): a supervisor
    starts the next one.
    """
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
    except OSError:  # a file of a file system
        sealed = 0
    if not sealed and not _unsealed_told:
        _unsealed_told.append(fd)
        log.info(
            "guest memory is not sealed against truncation: whoever truncates it ends this process"
        )
