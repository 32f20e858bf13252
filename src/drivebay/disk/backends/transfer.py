"""Moving all the bytes of a request by system calls that may move fewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import aligned, cut, gather, scatter

if TYPE_CHECKING:
    from drivebay.disk.contract import Buffers

__all__ = ["IOV_MAX", "Call", "move", "read_bounced", "write_bounced"]

IOV_MAX: Final = 1024
"""Buffers that one system call takes."""
BOUNCE: Final = 1 << 20

Call = Callable[[Sequence[memoryview], int], int]
"""Moves some of the bytes of the buffers, at a file offset; returns how many."""


def move(call: Call, offset: int, buffers: Buffers, done: int, length: int) -> int:
    """Go on from byte `done` until `length` are moved, or no more move. Returns how many have."""
    while done < length:
        moved = call(cut(buffers, done, length)[:IOV_MAX], offset + done)
        if moved == 0:
            break
        done += moved
    return done


def read_bounced(call: Call, offset: int, buffers: Buffers, length: int) -> int:
    """Read through aligned memory, as direct I/O may ask. Returns the bytes read."""
    bounce = aligned(min(length, BOUNCE))
    for start in range(0, length, BOUNCE):
        size = min(BOUNCE, length - start)
        moved = move(call, offset + start, [bounce], 0, size)
        scatter(cut(buffers, start, start + moved), bounce[:moved])
        if moved < size:
            return start + moved
    return length


def write_bounced(call: Call, offset: int, buffers: Buffers, length: int) -> int:
    """Write through aligned memory. Returns the bytes written."""
    bounce = aligned(min(length, BOUNCE))
    for start in range(0, length, BOUNCE):
        size = min(BOUNCE, length - start)
        gather(cut(buffers, start, start + size), bounce)
        moved = move(call, offset + start, [bounce], 0, size)
        if moved < size:
            return start + moved
    return length
