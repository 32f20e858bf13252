"""Operations side by side on one disk (hostile 4.9), in an order that chance decides and a seed
repeats.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from drivebay.disk.contract import Buffers, Disk, Unmap
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Cancelled, Promise, Suspension, perform
from tests.disk.support import noise

SECTOR = 512


class Slow(Filter):
    """Every operation waits for its turn, before it acts and after."""

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self.turns: list[Promise[None]] = []
        self.begun = False

    async def _turn(self) -> None:
        if self.begun:
            turn = Promise[None]()
            self.turns.append(turn)
            await turn

    async def read(self, sector: int, buffers: Buffers) -> None:
        await self._turn()
        await self.below.read(sector, buffers)
        await self._turn()

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        await self._turn()
        await self.below.write(sector, buffers, fua)
        await self._turn()

    async def flush(self) -> None:
        await self._turn()
        await self.below.flush()
        await self._turn()

    async def unmap(self, sector: int, count: int) -> None:
        await self._turn()
        await self.below.unmap(sector, count)
        await self._turn()

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        await self._turn()
        await self.below.write_zeroes(sector, count, fua, unmap)
        await self._turn()

    async def resize(self, sector_count: int) -> None:
        await self._turn()
        await self.below.resize(sector_count)


class Inline:
    def submit(self, call: Any, resume: Any) -> None:
        perform(call, resume)


def drive(
    tasks: list[Coroutine[Any, Any, None]],
    slow: Slow,
    chance: random.Random,
    cancels: float = 0.0,
) -> None:
    """Run `tasks` side by side; whose turn it is at the disk below is a matter of chance, and some
    wait for long. With `cancels` some waits are given up, as when a device is reset.
    """
    ready: deque[tuple[Coroutine[Any, Any, None], Any, BaseException | None]]
    ready = deque((task, None, None) for task in tasks)
    waiting: dict[Coroutine[Any, Any, None], Suspension[Any]] = {}
    left = len(tasks)
    while left:
        if waiting and chance.random() < cancels:
            task, waited = chance.choice(list(waiting.items()))
            if waited.cancel():
                del waiting[task]
                ready.append((task, None, Cancelled()))
        if not ready:
            slow.turns[:] = [turn for turn in slow.turns if not turn.abandoned]
            assert slow.turns, "somebody waits for what nobody does"
            slow.turns.pop(int(len(slow.turns) * chance.random() ** 0.3)).give(None)
            continue
        task, value, error = ready.popleft()
        try:
            waited = task.send(value) if error is None else task.throw(error)
        except StopIteration:
            left -= 1
            continue
        waiting[task] = waited

        def resume(
            value: Any, error: BaseException | None, task: Coroutine[Any, Any, None] = task
        ) -> None:
            if waiting.pop(task, None) is not None:
                ready.append((task, value, error))

        waited.begin(Inline(), resume)


class Task:
    """Uses sectors that nobody else does, though their clusters may be shared."""

    def __init__(
        self, disk: Disk, sectors: list[int], model: bytearray, seed: int, most: int = 12
    ) -> None:
        self.disk, self.sectors, self.model, self.most = disk, sectors, model, most
        self.chance = random.Random(seed)

    async def work(self, steps: int) -> None:
        for _ in range(steps):
            first = self.chance.randrange(len(self.sectors))
            start = self.sectors[first]
            count = 1
            while (
                first + count < len(self.sectors)
                and self.sectors[first + count] == start + count
                and count < self.most
            ):
                count += 1
            try:
                await self._do(start, count)
            except Cancelled:
                while not await self._write_again(start, count):
                    pass

    async def _do(self, start: int, count: int) -> None:
        where = slice(start * SECTOR, (start + count) * SECTOR)
        doing = self.chance.random()
        if doing < 0.45:
            data = noise(count * SECTOR, self.chance.getrandbits(30))
            self.model[where] = data
            await self.disk.write(start, [memoryview(data)], self.chance.random() < 0.05)
        elif doing < 0.7:
            self.model[where] = bytes(count * SECTOR)
            if doing < 0.6 and self.disk.unmap_behaviour is Unmap.ZEROES:
                await self.disk.unmap(start, count)
            else:
                await self.disk.write_zeroes(start, count, unmap=doing < 0.65)
        else:
            there = memoryview(bytearray(count * SECTOR))
            await self.disk.read(start, [there])
            assert there == self.model[where], (start, count)

    async def _write_again(self, start: int, count: int) -> bool:
        """After a change that was given up nobody knows what there is."""
        data = noise(count * SECTOR, self.chance.getrandbits(30))
        try:
            await self.disk.write(start, [memoryview(data)])
        except Cancelled:
            return False
        self.model[start * SECTOR : (start + count) * SECTOR] = data
        return True


async def flushes(disk: Disk, steps: int) -> None:
    for _ in range(steps):
        with suppress(Cancelled):
            await disk.flush()
