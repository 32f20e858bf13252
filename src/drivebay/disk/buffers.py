"""Buffer lists: the data of one operation in order, cut anywhere (see `drivebay.disk.contract`)."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from drivebay.disk.contract import Buffers

__all__ = ["ZEROES", "aligned", "cut", "gather", "scatter", "zero", "zeroes"]


def aligned(size: int) -> memoryview:
    """`size` bytes, at least one, of fresh zeroed memory at the start of a page."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


ZEROES: Final = aligned(1 << 20).toreadonly()
"""A mebibyte of zeroes that takes no memory: nothing has ever written to it."""


def cut(buffers: Buffers, start: int, stop: int) -> list[memoryview]:
    """Bytes `start` up to `stop` of `buffers`; a `stop` past the end means the end."""
    if len(buffers) == 1:
        return [buffers[0][start:stop]]
    parts = []
    for buffer in buffers:
        size = len(buffer)
        if start < size:
            parts.append(buffer[start:stop])
        start, stop = max(start - size, 0), stop - size
        if stop <= 0:
            break
    return parts


def scatter(buffers: Buffers, data: memoryview) -> None:
    """Copy `data` into `buffers`, which hold at least as many bytes."""
    for buffer in cut(buffers, 0, len(data)):
        buffer[:] = data[: len(buffer)]
        data = data[len(buffer) :]


def gather(buffers: Buffers, into: memoryview) -> None:
    """Copy `buffers` to the start of `into`, which holds at least as many bytes."""
    for buffer in buffers:
        into[: len(buffer)] = buffer
        into = into[len(buffer) :]


def zero(buffers: Buffers) -> None:
    """Fill `buffers` with zeroes."""
    for buffer in buffers:
        for start in range(0, len(buffer), len(ZEROES)):
            part = buffer[start : start + len(ZEROES)]
            part[:] = ZEROES[: len(part)]


def zeroes(size: int) -> list[memoryview]:
    """Buffers of `size` zeroes, which take no memory."""
    whole, rest = divmod(size, len(ZEROES))
    return [ZEROES] * whole + [ZEROES[:rest]] * (rest > 0)
