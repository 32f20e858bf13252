"""Hostile 4.9: what a read may return while other operations on the same sectors are under way.

Operations are stepped by hand: each call that may block ends when the test says so, in any order. A
read returns, sector by sector, what a write left that no later one had replaced before the read
began, or what was being written meanwhile; never a mix inside a sector.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.filters.base import Filter
from drivebay.disk.layers import sql
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.operations import commit, snapshot
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.sql import open_over
from drivebay.disk.layers.stack import Place
from drivebay.suspend import Blocking, run
from tests.disk.support import Stepped, put

SECTORS = 24


def value(number: int) -> bytes:
    return number.to_bytes(4, "little") * 128


class Slow(Filter):
    """Whatever it is asked, somebody else does first what it has to do."""

    async def read(self, sector: int, buffers: Any) -> None:
        await Blocking(lambda: None)
        await self.below.read(sector, buffers)


def sqldiff(path: Path) -> LayeredDisk:
    base = RamDisk(SECTORS * 512)
    put(base, 0, value(1) * SECTORS)
    top = open_over(str(path / "top"), base, create=True, read_only=False)
    return LayeredDisk.over(top, Slow(base))


def write_through_cache(path: Path) -> LayeredDisk:
    base = RamDisk(SECTORS * 512)
    put(base, 0, value(1) * SECTORS)
    cache = Place(RamLayer(base.byte_count), read_cache=True, write_through=True)
    return LayeredDisk([cache, DiskLayer(Slow(base))])


def changing(path: Path) -> LayeredDisk:
    base = RamDisk(SECTORS * 512)
    put(base, 0, value(1) * SECTORS)
    return LayeredDisk.over(RamLayer(base.byte_count), base)


@dataclass
class Write:
    begin: float
    number: int
    end: float = float("inf")


@dataclass
class History:
    """Of each sector, every write there ever was."""

    clock: Any = field(default_factory=lambda: itertools.count(1))
    writes: list[list[Write]] = field(
        default_factory=lambda: [[Write(0, 1, 0)] for _ in range(SECTORS)]
    )

    def allows(self, sector: int, begin: float, end: float) -> set[int]:
        writes = self.writes[sector]
        return {
            one.number
            for one in writes
            if one.begin < end
            and not any(one.end < other.begin and other.end < begin for other in writes)
        }


async def _then(operation: Any, end: Callable[[], None]) -> None:
    await operation
    end()


def start(disk: Disk, history: History, rng: random.Random) -> Stepped:
    sector = rng.randrange(SECTORS)
    count = rng.randrange(1, min(8, SECTORS - sector) + 1)
    kind = rng.choice(["read", "read", "write", "write", "zero", "flush"])
    begin = next(history.clock)
    if kind == "read":
        data = bytearray(count * 512)

        def check() -> None:
            end = next(history.clock)
            for at in range(count):
                found = bytes(data[at * 512 : at * 512 + 512])
                assert found == found[:4] * 128, "a torn sector"
                number = int.from_bytes(found[:4], "little")
                assert number in history.allows(sector + at, begin, end), (sector + at, number)

        return Stepped(_then(disk.read(sector, [memoryview(data)]), check))
    if kind == "flush":
        return Stepped(disk.flush())
    number = begin + 1 if kind == "write" else 0
    written = [Write(begin, number) for _ in range(count)]
    for at, one in enumerate(written):
        history.writes[sector + at].append(one)

    def ended() -> None:
        now = next(history.clock)
        for one in written:
            one.end = now

    if kind == "zero":
        return Stepped(_then(disk.write_zeroes(sector, count), ended))
    data = bytearray(value(number) * count)
    return Stepped(_then(disk.write(sector, [memoryview(data)]), ended))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("make", [sqldiff, write_through_cache, changing], ids=lambda m: m.__name__)
def test_every_read_returns_what_it_may(
    make: Callable[[Path], LayeredDisk], seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "FULL", 12 << 10)
    rng = random.Random(seed)
    disk, history = make(tmp_path), History()
    active: list[Stepped] = []
    coming_and_going: Stepped | None = None
    for _ in range(600):
        waiting = [one for one in active if one.calls]
        if len(active) < 6 and (not waiting or rng.random() < 0.5):
            active.append(start(disk, history, rng))
            if make is changing and (coming_and_going is None or coming_and_going.done):
                coming_and_going = Stepped(come_and_go(disk))
                active.append(coming_and_going)
        elif waiting:
            rng.choice(waiting).work()
        active = [one for one in active if not one.done]
    while active:
        waiting = [one for one in active if one.calls]
        assert waiting, "they wait for each other"
        rng.choice(waiting).work()
        active = [one for one in active if not one.done]
    run(disk.flush())
    final = bytearray(SECTORS * 512)
    now = next(history.clock)
    run(disk.read(0, [memoryview(final)]))
    for sector in range(SECTORS):
        number = int.from_bytes(final[sector * 512 : sector * 512 + 4], "little")
        assert number in history.allows(sector, now, next(history.clock))
    disk.close()


async def come_and_go(disk: LayeredDisk) -> None:
    await snapshot(disk, RamLayer(disk.byte_count))
    if len(disk.layers) > 3:
        await commit(disk)
