"""Hostile 4.9 for layers: operations side by side, some given up, while layers come and go."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layer import Layer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.operations import commit, snapshot
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.sql import open_over
from drivebay.disk.layers.stack import Place
from drivebay.suspend import run
from tests.disk.side_by_side import SECTOR, Slow, Task, drive, flushes
from tests.disk.support import fill, get

SIZE = 128 * SECTOR

Top = Callable[[Path, Disk], Layer]


def ram(path: Path, below: Disk) -> Layer:
    return RamLayer(SIZE)


def sql(path: Path, below: Disk) -> Layer:
    return open_over(str(path), below, create=True, read_only=False)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cancels", [0.0, 0.03])
@pytest.mark.parametrize("top", [ram, sql])
def test_layers_come_and_go_under_tasks(
    top: Top, cancels: float, seed: int, tmp_path: Path
) -> None:
    slow = Slow(RamDisk(SIZE))
    fill(slow.below)
    disk = LayeredDisk([top(tmp_path / "0.dbhd", slow), DiskLayer(slow)])
    left: list[Layer] = []

    async def come_and_go() -> None:
        for number in range(1, 4):
            await snapshot(disk, top(tmp_path / f"{number}.dbhd", slow))
            left.append(await commit(disk))

    model = bytearray(get(disk, 0, disk.sector_count))
    slow.begun = True
    tasks = [Task(disk, list(range(t, 128, 4)), model, seed * 10 + t).work(30) for t in range(4)]
    chance = random.Random(seed)
    # What comes and goes is asked for by a person, who waits.
    drive([*tasks, flushes(disk, 10)], slow, chance, cancels)
    tasks = [Task(disk, list(range(t, 128, 4)), model, seed * 20 + t).work(30) for t in range(4)]
    drive([*tasks, flushes(disk, 10), come_and_go()], slow, chance)
    slow.begun = False
    assert get(disk, 0, disk.sector_count) == model
    assert len(left) == 3
    run(disk.flush())
    disk.close()
    for layer in left:
        layer.close()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "how",
    [{"write_through": True}, {"read_cache": True}, {"write_through": True, "read_cache": True}],
)
def test_what_is_written_through_or_cached_is_the_same_in_both(
    how: dict[str, bool], seed: int
) -> None:
    slow = Slow(RamDisk(SIZE))
    fill(slow.below)
    disk = LayeredDisk([Place(RamLayer(SIZE), **how), DiskLayer(slow)])
    model = bytearray(get(disk, 0, disk.sector_count))
    slow.begun = True
    tasks = [Task(disk, list(range(t, 128, 4)), model, seed * 10 + t).work(40) for t in range(4)]
    drive([*tasks, flushes(disk, 10)], slow, random.Random(seed), 0.03)
    slow.begun = False
    assert get(disk, 0, disk.sector_count) == model
    if "write_through" in how:
        assert get(slow.below, 0, disk.sector_count) == model
    disk.close()
