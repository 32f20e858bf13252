"""What a power cut may leave: everything that was flushed is there, and the image is whole."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Unmap
from drivebay.suspend import run
from drivebay.testing.powercut import PowerCutDisk, State
from tests.disk.support import noise
from tests.vhd.support import FORMS, Chain, Expected, content

# Of each form; a format has several.
STATES = int(os.environ.get("DRIVEBAY_POWER_CUTS", "250"))


@dataclass
class Done:
    """An operation: when it began, and what its sectors should read as after it."""

    began: int
    sector: int = 0
    data: bytes = b""
    flushed: int | None = None
    """When the flush that it was had ended."""
    stable: int | None = None
    """When it was stable by itself."""


def work(chain: Chain, cut: PowerCutDisk, seed: int) -> list[Done]:
    """Write, zero, unmap, flush, close and open again, at random."""
    chance, done = random.Random(seed), []
    disk = chain.open(cut)
    certain_unmaps = disk.unmap_behaviour is Unmap.ZEROES
    for number in range(30):
        began = cut.moment
        sector = chance.randrange(disk.sector_count - 64)
        count = chance.choice((1, 8, 8, 64))
        if number == 10:  # several blocks, and a whole one
            sector, count = 16, disk.sector_count - 32
        choice = chance.random()
        data = noise(count * disk.sector_size, number)
        if choice < 0.5:
            run(disk.write(sector, [memoryview(bytearray(data))]))
            done.append(Done(began, sector, data))
        elif choice < 0.6:
            run(disk.write(sector, [memoryview(bytearray(data))], True))
            done.append(Done(began, sector, data, stable=cut.moment))
        elif choice < 0.75:
            run(disk.write_zeroes(sector, count, unmap=number % 2 == 0))
            done.append(Done(began, sector, bytes(len(data))))
        elif choice < 0.85 and certain_unmaps:
            run(disk.unmap(sector, count))
            done.append(Done(began, sector, bytes(len(data))))
        elif choice < 0.95:
            run(disk.flush())
            done.append(Done(began, flushed=cut.moment))
        else:
            run(disk.flush())
            disk.close()
            done.append(Done(began, flushed=cut.moment))
            disk = chain.open(cut)
    run(disk.flush())
    done.append(Done(began, flushed=cut.moment))
    disk.close()
    return done


def ended(moment: int | None, state: State) -> bool:
    return moment is not None and moment <= state.moment


def look(chain: Chain, state: State, done: list[Done]) -> None:
    store = RamDisk(len(state.data))
    run(store.write(0, [memoryview(state.data)]))
    flushes = [at for at, step in enumerate(done) if ended(step.flushed, state)]
    flushed = max(flushes, default=-1)
    disk = chain.open(store)
    expected = Expected(chain.content, disk.sector_size)
    for at, step in enumerate(done):
        if step.began < state.moment:
            certain = at < flushed or ended(step.stable, state)
            expected.set(step.sector, step.data, certain)
    expected.check(content(disk))
    run(disk.write(1, [memoryview(bytearray(noise(disk.sector_size)))]))
    expected.set(1, noise(disk.sector_size), certain=True)
    disk.close()
    assert not chain.damage(store)
    disk = chain.open(store, read_only=True)
    expected.check(content(disk))
    disk.close()


@pytest.mark.parametrize(
    "form", ["vhd-fixed", "vhd-dynamic", "vhd-differencing", "vhdx-dynamic", "vhdx-differencing"]
)
def test_nothing_that_was_flushed_is_lost(form: str) -> None:
    per_run = 25 if form.startswith("vhdx") else 50
    for seed in range(STATES // per_run):
        chain = Chain(FORMS[form])
        cut = PowerCutDisk(chain.store)
        done = work(chain, cut, seed)
        for state in cut.states(per_run, seed):
            look(chain, state, done)


@pytest.mark.parametrize("form", ["vhdx-dynamic", "vhdx-differencing"])
def test_an_image_that_is_only_read_after_a_power_cut_shows_the_same(form: str) -> None:
    chain = Chain(FORMS[form])
    cut = PowerCutDisk(chain.store)
    work(chain, cut, seed=77)
    for state in cut.states(20):
        store = RamDisk(len(state.data))
        run(store.write(0, [memoryview(state.data)]))
        reader = chain.open(store, read_only=True)
        found = content(reader)
        reader.close()
        assert content(store) == state.data, "a reader wrote"
        writer = chain.open(store)
        assert content(writer) == found
        writer.close()
