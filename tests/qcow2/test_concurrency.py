"""Hostile 4.9: operations side by side. Whatever the order in which the disk below works, each
sector reads what was last written to it, and clusters that are freed and used again keep apart.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Coroutine
from typing import Any

import pytest

from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.errors import IllegalBlock
from drivebay.disk.filters.base import Filter
from drivebay.disk.formats.qcow2 import Qcow2Disk, mapping, refcounts, slices
from drivebay.suspend import Promise, Suspension, perform
from tests.disk.support import fill, noise
from tests.qcow2.support import KIB, SECTOR, Ram, blank, content, is_clean, over

CLUSTER = 2048
SECTORS = 4  # in a cluster


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


def drive(tasks: list[Coroutine[Any, Any, None]], slow: Slow, chance: random.Random) -> None:
    """Run `tasks` side by side; whose turn it is at the disk below is a matter of chance, and some
    wait for long.
    """
    ready: deque[tuple[Coroutine[Any, Any, None], Any, BaseException | None]]
    ready = deque((task, None, None) for task in tasks)
    left = len(tasks)
    while left:
        if not ready:
            slow.turns.pop(int(len(slow.turns) * chance.random() ** 0.3)).give(None)
            continue
        task, value, error = ready.popleft()
        try:
            waited: Suspension[Any] = task.send(value) if error is None else task.throw(error)
        except StopIteration:
            left -= 1
            continue

        def resume(
            value: Any, error: BaseException | None, task: Coroutine[Any, Any, None] = task
        ) -> None:
            ready.append((task, value, error))

        waited.begin(Inline(), resume)


class Task:
    """Uses sectors that nobody else does, though their clusters may be shared."""

    def __init__(self, disk: Disk, sectors: list[int], model: bytearray, seed: int) -> None:
        self.disk, self.sectors, self.model = disk, sectors, model
        self.chance = random.Random(seed)

    async def work(self, steps: int) -> None:
        for _ in range(steps):
            first = self.chance.randrange(len(self.sectors))
            start = self.sectors[first]
            count = 1
            while (
                first + count < len(self.sectors)
                and self.sectors[first + count] == start + count
                and count < 3 * SECTORS
            ):
                count += 1
            where = slice(start * SECTOR, (start + count) * SECTOR)
            doing = self.chance.random()
            if doing < 0.45:
                data = noise(count * SECTOR, self.chance.getrandbits(30))
                self.model[where] = data
                await self.disk.write(start, [memoryview(data)], self.chance.random() < 0.05)
            elif doing < 0.7:
                self.model[where] = bytes(count * SECTOR)
                if doing < 0.6:
                    await self.disk.unmap(start, count)
                else:
                    await self.disk.write_zeroes(start, count, unmap=doing < 0.65)
            else:
                there = memoryview(bytearray(count * SECTOR))
                await self.disk.read(start, [there])
                assert there == self.model[where], (start, count)


async def flushes(disk: Disk, steps: int) -> None:
    for _ in range(steps):
        await disk.flush()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("sort", ["alone", "over", "version-2"])
def test_tasks_that_share_an_image_do_not_disturb_each_other(sort: str, seed: int) -> None:
    version = 2 if sort == "version-2" else 3
    store = blank(64 * KIB, cluster_size=CLUSTER, version=version)
    slow = Slow(store)
    disk: Disk = Qcow2Disk(slow)
    if sort == "over":
        below = Ram(50 * KIB)
        fill(below)
        disk = over(Qcow2Disk(slow), below)
    model = content(disk)
    slow.begun = True
    tasks = [Task(disk, list(range(t, 48, 3)), model, seed * 100 + t).work(40) for t in range(3)]
    tasks += [
        Task(disk, list(range(48 + t * 16, 64 + t * 16)), model, seed * 100 + 50 + t).work(40)
        for t in range(5)
    ]
    drive([*tasks, flushes(disk, 12), flushes(disk, 5)], slow, random.Random(seed))
    slow.begun = False
    assert content(disk) == model
    disk.close()
    is_clean(store)
    again: Disk = Qcow2Disk(store)
    if sort == "over":
        again = over(Qcow2Disk(store), below)
    assert content(again) == model


def tagged(start: int, count: int, seed: int) -> bytes:
    """Sectors that each tell which they are."""
    return b"".join(
        f"{start + number:08}".encode() + noise(SECTOR - 8, seed) for number in range(count)
    )


def is_its_own(sector: int, data: bytes) -> bool:
    return not any(data) or data.startswith(f"{sector:08}".encode())


async def chaos(disk: Disk, seed: int, steps: int) -> None:
    """Anything anywhere: what is read is zero, or was once written to the same sector."""
    chance = random.Random(seed)
    for _ in range(steps):
        start = chance.randrange(disk.sector_count)
        count = min(chance.choice((1, 2, 8, 30)), disk.sector_count - start)
        doing = chance.random()
        if doing < 0.4:
            await disk.write(start, [memoryview(tagged(start, count, seed))])
        elif doing < 0.6:
            await disk.unmap(start, count)
        elif doing < 0.75:
            await disk.flush()
        else:
            data = memoryview(bytearray(count * SECTOR))
            await disk.read(start, [data])
            for number in range(count):
                part = bytes(data[number * SECTOR : (number + 1) * SECTOR])
                assert is_its_own(start + number, part), start + number


@pytest.mark.parametrize("seed", range(12))
def test_what_is_freed_under_an_operation_is_not_used_again_before_it_ends(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And tables leave memory all the time, while others look at them."""
    for module in (mapping, refcounts):
        monkeypatch.setattr(module, "CACHED", 2 * slices.SLICE)
    store = blank(192 * KIB, cluster_size=512)
    slow = Slow(store)
    disk = Qcow2Disk(slow)
    slow.begun = True
    tasks = [chaos(disk, seed * 100 + task, 60) for task in range(10)]
    drive(tasks, slow, random.Random(seed))
    slow.begun = False
    before = content(disk)
    for number in range(disk.sector_count):
        assert is_its_own(number, bytes(before[number * SECTOR :][:SECTOR]))
    disk.close()
    is_clean(store)
    assert content(Qcow2Disk(store)) == before


def test_a_resize_among_writes() -> None:
    """What is written past the new end fails or is lost, and never comes back."""
    for seed in range(10):
        store = blank(64 * KIB, cluster_size=CLUSTER)
        slow = Slow(store)
        disk = Qcow2Disk(slow)
        slow.begun = True

        async def write(number: int, disk: Qcow2Disk = disk) -> None:
            try:
                await disk.write(number * SECTORS, [memoryview(noise(CLUSTER, number))])
            except IllegalBlock:
                assert number >= 8

        drive([*(write(n) for n in range(32)), disk.resize(8 * SECTORS)], slow, random.Random(seed))
        slow.begun = False
        expected = b"".join(noise(CLUSTER, number) for number in range(8))
        assert content(disk) == expected
        drive([disk.resize(128)], slow, random.Random(0))
        assert content(disk) == expected + bytes(24 * CLUSTER)
        disk.close()
        is_clean(store)
