"""Memory that requests are received into and replies are built in, used again and again."""

from __future__ import annotations

from typing import Final

from drivebay.disk.buffers import aligned

__all__ = ["ARENA", "Lease", "Pool"]

ARENA: Final = 256 << 10
MOST_KEPT: Final = 64 << 20


class Lease:
    """Page-aligned memory of at least the size that was asked for."""

    __slots__ = ("size", "users", "view")

    def __init__(self, size: int) -> None:
        self.size = size
        self.view = aligned(size)
        self.users = 0
        """Operations of a disk that still touch it."""


class Pool:
    """What is given back is kept for the next, since fresh pages cost as much as copying them."""

    def __init__(self) -> None:
        self._free: dict[int, list[Lease]] = {}
        self._kept = 0

    def take(self, size: int) -> Lease:
        """Memory for `size` bytes; what it holds is left from before."""
        rounded = max(ARENA, 1 << (size - 1).bit_length())
        free = self._free.get(rounded)
        if free:
            self._kept -= rounded
            return free.pop()
        return Lease(rounded)

    def give_back(self, lease: Lease) -> None:
        """Nobody touches it any more."""
        if self._kept + lease.size <= MOST_KEPT:
            self._kept += lease.size
            self._free.setdefault(lease.size, []).append(lease)
