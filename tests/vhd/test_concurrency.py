"""Hostile 4.9: operations side by side. Whatever the order in which the disk below works, each
sector reads what was last written to it.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from drivebay.disk.errors import IllegalBlock
from drivebay.suspend import run
from tests.disk.side_by_side import SECTOR, Slow, Task, drive, flushes
from tests.disk.support import noise, put
from tests.vhd.support import FORMS, MEBIBYTE, Chain, content

SORTS = {
    name: replace(FORMS[name], size=4 * MEBIBYTE if name.startswith("vhdx") else 256 << 10)
    for name in FORMS
    if not name.endswith(("fixed", "-4k")) or name.endswith("-on-4k")
}
HALF = MEBIBYTE // 2 // SECTOR


@pytest.mark.parametrize("cancels", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sort", SORTS)
def test_tasks_that_share_an_image_do_not_disturb_each_other(
    sort: str, seed: int, cancels: float
) -> None:
    """Sectors of a block, and the tables of blocks, are shared; sectors are not. What is given up
    leaves no lock held, and disturbs nobody else.
    """
    form = SORTS[sort]
    chain = Chain(form)
    first = chain.open()
    put(first, 3, noise(SECTOR, seed))
    first.close()
    slow = Slow(chain.store)
    disk = chain.open(slow)
    model = bytearray(content(disk))
    step = form.size // SECTOR // 8  # an eighth of the disk: less than a block, or more
    slow.begun = True
    tasks = []
    for number in range(6):
        own = [part * step + number * 6 + at for part in range(8) for at in range(5)]
        tasks.append(Task(disk, own, model, seed * 100 + number).work(25))
    drive([*tasks, flushes(disk, 8), flushes(disk, 4)], slow, random.Random(seed), cancels)
    slow.begun = False
    assert content(disk) == model
    run(disk.flush())
    disk.close()
    assert not chain.damage()
    again = chain.open()
    assert content(again) == model
    again.close()


@pytest.mark.parametrize("seed", range(30))
def test_a_bitmap_that_two_blocks_share_is_loaded_once(seed: int) -> None:
    """One block gets its first sector while another, whose bits lie beside it, is written again."""
    chain = Chain(SORTS["vhdx-differencing"])
    first = chain.open()
    put(first, 0, noise(SECTOR, 1))
    first.close()
    model = bytearray(content(chain.open(read_only=True)))
    slow = Slow(chain.store)
    disk = chain.open(slow)
    slow.begun = True

    async def write(sector: int) -> None:
        model[sector * SECTOR : (sector + 1) * SECTOR] = data = noise(SECTOR, sector)
        await disk.write(sector, [memoryview(data)])

    drive([write(2 * HALF + 5), write(9), write(4 * HALF)], slow, random.Random(seed))
    slow.begun = False
    assert content(disk) == model
    disk.close()


@pytest.mark.parametrize("seed", range(5))
def test_what_a_block_was_zeroed_as_outlives_a_write_beside_it(seed: int) -> None:
    """A block is made zero while a sector of it is being given a place: the others are zero."""
    for sort in ("vhdx-differencing", "vhd-differencing"):
        chain = Chain(SORTS[sort])
        slow = Slow(chain.store)
        disk = chain.open(slow)
        block, data = disk.optimal_unmap_sectors, noise(SECTOR)
        run(disk.write(0, [memoryview(data)]))  # the first notes that the image is written
        slow.begun = True
        drive(
            [disk.write(block, [memoryview(data)]), disk.write_zeroes(block, block)],
            slow,
            random.Random(seed),
        )
        slow.begun = False
        found = content(disk)[block * SECTOR : 2 * block * SECTOR]
        assert not any(found[SECTOR:])
        assert found[:SECTOR] in (data, bytes(SECTOR))
        run(disk.flush())
        disk.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_resize_among_writes(seed: int) -> None:
    """What is written past the new end fails or is lost, and never comes back."""
    chain = Chain(SORTS["vhdx-dynamic"])
    slow = Slow(chain.store)
    disk = chain.open(slow)
    put(disk, 0, noise(SECTOR))
    slow.begun = True
    size, end = disk.sector_count, 3 * HALF  # one block and a half

    async def write(sector: int) -> None:
        try:
            await disk.write(sector, [memoryview(noise(SECTOR, sector))])
        except IllegalBlock:
            assert sector >= end

    sectors = [HALF, end - 1, end, 4 * HALF - 1, 4 * HALF, size - 1]
    drive([*map(write, sectors), disk.resize(end)], slow, random.Random(seed))
    drive([disk.resize(size)], slow, random.Random(0))
    slow.begun = False
    for sector in sectors:
        found = content(disk)[sector * SECTOR :][:SECTOR]
        assert found == (noise(SECTOR, sector) if sector < end else bytes(SECTOR)), sector
    disk.close()
    assert not chain.damage()
