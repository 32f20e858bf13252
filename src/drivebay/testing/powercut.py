"""A disk that remembers what a power cut at any moment could have left of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.filters.base import Filter
from drivebay.suspend import run

__all__ = ["PowerCutDisk", "State"]

ATOM = 512  # bytes that are written as a whole or not at all


@dataclass
class _Change:
    """`data` from byte `offset` on, or zeroes; or, with `size`, a new size of the disk."""

    began: int
    offset: int = 0
    data: bytes | None = None
    length: int = 0
    size: int | None = None
    fua: bool = False
    ended: int | None = None


@dataclass
class _Flush:
    began: int
    ended: int


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

    What had ended when a flush began, which has ended too, is there, and so is a write with FUA
    that has ended. Of what else had begun any part may be there, in any combination, torn at 512
    bytes: writes, zeroes, holes and changes of the size. What was written twice shows either.
    """

    kind = "power cut"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self.moment = 0
        """Goes up by one whenever an operation begins or ends."""
        self._start = bytearray(below.byte_count)
        run(below.read(0, [memoryview(self._start)]))
        self._changes: list[_Change] = []
        self._flushes: list[_Flush] = []

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Note it, then write."""
        data = b"".join(buffers)
        change = self._begin(_Change(self.moment, sector * self.sector_size, data, fua=fua))
        await self.below.write(sector, buffers, fua)
        change.ended = self._tick()

    async def unmap(self, sector: int, count: int) -> None:
        """Note it, then unmap: what is unmapped reads zero, as far as this knows."""
        change = self._begin(self._zeroes(sector, count))
        await self.below.unmap(sector, count)
        change.ended = self._tick()

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Note it, then zero."""
        change = self._begin(self._zeroes(sector, count, fua))
        await self.below.write_zeroes(sector, count, fua, unmap)
        change.ended = self._tick()

    async def resize(self, sector_count: int) -> None:
        """Note it, then resize."""
        change = self._begin(_Change(self.moment, size=sector_count * self.sector_size))
        await self.below.resize(sector_count)
        change.ended = self._tick()

    async def flush(self) -> None:
        """Flush, then note it."""
        began = self._tick()
        await self.below.flush()
        self._flushes.append(_Flush(began, self._tick()))

    def _zeroes(self, sector: int, count: int, fua: bool = False) -> _Change:
        size = self.sector_size
        return _Change(self.moment, sector * size, length=count * size, fua=fua)

    def _begin(self, change: _Change) -> _Change:
        self._changes.append(change)
        self._tick()
        return change

    def _tick(self) -> int:
        self.moment += 1
        return self.moment

    # -- what may be left ------------------------------------------------------------------------

    def states(self, count: int, seed: int = 0) -> Iterator[State]:
        """`count` of them, at moments from first to last. The same `seed` gives the same."""
        chance = random.Random(seed)
        for number in range(count):
            moment = self.moment * (number + 1) // count
            yield State(moment, self._left(moment, chance))

    def _left(self, moment: int, chance: random.Random) -> bytearray:
        data = bytearray(self._start)
        covered = max((f.began for f in self._flushes if f.ended <= moment), default=0)
        keep = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))  # of what nothing has made stable
        for change in self._changes:
            if change.began >= moment:
                break
            ended = change.ended is not None and change.ended <= moment
            if ended and (change.fua or (change.ended or 0) <= covered):
                _apply(data, change)
            elif chance.random() < keep:
                _apply(data, change, chance if chance.random() < 0.5 else None)
        return data


def _apply(data: bytearray, change: _Change, tear: random.Random | None = None) -> None:
    if change.size is not None:
        data[change.size :] = bytes(max(0, change.size - len(data)))
        return
    content = change.data if change.data is not None else bytes(change.length)
    if (missing := change.offset + len(content) - len(data)) > 0:
        data += bytes(missing)
    atoms = range(0, len(content), ATOM)
    if tear is None:
        data[change.offset : change.offset + len(content)] = content
        return
    for start in tear.sample(atoms, tear.randint(0, len(atoms))):
        data[change.offset + start : change.offset + start + ATOM] = content[start : start + ATOM]
