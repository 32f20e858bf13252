"""Guest memory for a driver's rings, tables and buffers."""

from __future__ import annotations

from drivebay.platform.memory import GuestMemory

__all__ = ["Arena"]


class Arena:
    """Guest memory to carve buffers from, from `start` on."""

    def __init__(self, memory: GuestMemory, start: int, size: int) -> None:
        self.memory = memory
        self._next, self._end = start, start + size

    def take(self, size: int, align: int = 16) -> int:
        """The address of `size` zero bytes. Raises `MemoryError` when there are none left."""
        address = -(-self._next // align) * align
        if address + size > self._end:
            raise MemoryError(f"{size} bytes: the arena is used up")
        self._next = address + size
        self.memory.view(address, size)[:] = bytes(size)
        return address
