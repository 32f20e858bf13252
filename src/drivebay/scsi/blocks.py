"""Tasks that read blocks of a medium, whichever it is."""

from __future__ import annotations

from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi.task import Direction, Task

__all__ = ["ReadBlocks"]


class ReadBlocks(Task):
    """`count` units of `unit` bytes. A subclass says how whole ones are read.

    Whole units go straight into the buffers they are wanted in; parts of one, where a wire cannot
    move it at once, are cut out of a copy.
    """

    direction = Direction.IN

    def __init__(self, unit: int, count: int) -> None:
        self.unit, self.length = unit, count * unit

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Read."""
        length = byte_length(buffers)
        if offset < 0 or offset + length > self.length:
            raise ValueError(f"bytes {offset}+{length} of {self.length}")
        first, skip = divmod(offset, self.unit)
        if not skip and not length % self.unit:
            await self.read(first, buffers)
            return
        last = -(-(offset + length) // self.unit)
        copy = memoryview(bytearray((last - first) * self.unit))
        await self.read(first, [copy])
        scatter(buffers, copy[skip : skip + length])

    async def read(self, first: int, buffers: Buffers) -> None:
        """Fill `buffers`, whole units, from the task's unit `first` on."""
        raise NotImplementedError
