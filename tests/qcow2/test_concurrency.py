"""Hostile 4.9: operations side by side. Whatever the order in which the disk below works, each
sector reads what was last written to it, and clusters that are freed and used again keep apart.
"""

from __future__ import annotations

import random

import pytest

from drivebay.disk.contract import Disk
from drivebay.disk.errors import IllegalBlock
from drivebay.disk.formats.qcow2 import Qcow2Disk, check, mapping, refcounts, slices
from drivebay.suspend import run
from tests.disk.side_by_side import Slow, Task, drive, flushes
from tests.disk.support import fill, noise
from tests.qcow2.support import KIB, SECTOR, Ram, blank, content, is_clean, over

CLUSTER = 2048
SECTORS = 4  # in a cluster


@pytest.mark.parametrize("cancels", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("sort", ["alone", "over", "version-2"])
def test_tasks_that_share_an_image_do_not_disturb_each_other(
    sort: str, seed: int, cancels: float
) -> None:
    """What is given up leaves no lock held, disturbs nobody else, and costs space at most."""
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
    drive([*tasks, flushes(disk, 12), flushes(disk, 5)], slow, random.Random(seed), cancels)
    slow.begun = False
    assert content(disk) == model
    run(disk.flush())
    disk.close()
    if cancels:
        assert not check(store).corruptions
    else:
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
