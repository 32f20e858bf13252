"""A disk that remembers what a power cut at any moment could have left of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.filters.base import Filter
from drivebay.suspend import run
from drivebay.testing.history import Change, Flush, History, Image, Memory

__all__ = ["PowerCutDisk", "State"]


@dataclass(frozen=True)
class State:
    """What a power cut may leave."""

    moment: int
    """When it was, as `PowerCutDisk.moment` counts."""
    data: bytearray


class PowerCutDisk(Filter):
    """Passes everything on to `below`, and knows what might be left of it if the power failed::

        cut = PowerCutDisk(RamDisk(1 << 20))
        ...                                    # writes, flushes; note `cut.moment` now and then
        for state in cut.states(500):
            ...                                # open what is in `state.data`, and look

    What that is, `drivebay.testing.history` says. It keeps all that was written, and all that was
    there, in memory: `drivebay.lab.powercut` is for large disks.
    """

    kind = "power cut"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self._start = bytearray(below.byte_count)
        run(below.read(0, [memoryview(self._start)]))
        self.history = History(below.byte_count)

    @property
    def moment(self) -> int:
        """Goes up by one whenever an operation begins or ends."""
        return self.history.moment

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Note it, then write."""
        data = b"".join(buffers)
        offset = sector * self.sector_size
        change = self.history.begin(offset, len(data), Memory(data), fua=fua)
        await self.below.write(sector, buffers, fua)
        change.ended = self.history.tick()

    async def unmap(self, sector: int, count: int) -> None:
        """Note it, then unmap: what is unmapped reads zero, as far as this knows."""
        change = self._zeroes(sector, count)
        await self.below.unmap(sector, count)
        change.ended = self.history.tick()

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Note it, then zero."""
        change = self._zeroes(sector, count, fua)
        await self.below.write_zeroes(sector, count, fua, unmap)
        change.ended = self.history.tick()

    async def resize(self, sector_count: int) -> None:
        """Note it, then resize."""
        change = self.history.begin(size=sector_count * self.sector_size)
        await self.below.resize(sector_count)
        change.ended = self.history.tick()

    async def flush(self) -> None:
        """Flush, then note it."""
        began = self.history.tick()
        await self.below.flush()
        self.history.flushes.append(Flush(began, self.history.tick()))

    def _zeroes(self, sector: int, count: int, fua: bool = False) -> Change:
        size = self.sector_size
        return self.history.begin(sector * size, count * size, fua=fua)

    # -- what may be left ------------------------------------------------------------------------

    def states(self, count: int, seed: int = 0) -> Iterator[State]:
        """`count` of them, at moments from first to last. The same `seed` gives the same."""
        chance = random.Random(seed)
        moments = (self.moment * number // count for number in range(1, count + 1))
        for cut in self.history.cuts_at(moments):
            yield State(cut.moment, self._left(cut.draw(chance)))

    def _left(self, image: Image) -> bytearray:
        data = self._start[: image.size].ljust(image.size, b"\0")
        image.pieces.fill(0, memoryview(data))
        return data
