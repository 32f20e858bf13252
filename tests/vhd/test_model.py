"""Images against a plain array of bytes, closed and opened again at any moment."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.contract import Buffers, Disk, Unmap
from drivebay.disk.errors import IllegalBlock
from drivebay.disk.filters.base import Filter
from drivebay.suspend import blocking, run, together
from tests.disk.support import get, noise
from tests.vhd.support import FORMS, Chain, content

KINDS = ("write", "fua", "zero", "zero-unmap", "unmap", "read", "flush", "reopen", "two-writes")

STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1 << 16)),
    max_size=12,
)


class Model:
    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.disk = chain.open()
        self.bytes = bytearray(chain.content)

    def step(self, kind: str, at: float, length: float, seed: int) -> None:
        disk = self.disk
        size = disk.sector_size
        sector = min(int(at * disk.sector_count), disk.sector_count - 1)
        # Mostly short ones, some of several blocks.
        count = 1 + int(length**4 * (disk.sector_count - sector - 1))
        where = slice(sector * size, (sector + count) * size)
        data = noise(count * size, seed)
        if kind in ("write", "fua"):
            run(disk.write(sector, [memoryview(bytearray(data))], kind == "fua"))
            self.bytes[where] = data
        elif kind == "two-writes":
            half = max(1, count // 2)
            views = memoryview(bytearray(data))
            writes = [disk.write(sector, [views[: half * size]])]
            if half < count:
                writes.append(disk.write(sector + half, [views[half * size :]]))
            run(together(writes))
            self.bytes[where] = data
        elif kind.startswith("zero"):
            run(disk.write_zeroes(sector, count, unmap=kind == "zero-unmap"))
            self.bytes[where] = bytes(count * size)
        elif kind == "unmap":
            run(disk.unmap(sector, count))
            self.unmapped(sector, count)
        elif kind == "read":
            assert get(disk, sector, count) == self.bytes[where]
        elif kind == "flush":
            run(disk.flush())
        else:
            self.disk.close()
            self.disk = self.chain.open()

    def unmapped(self, sector: int, count: int) -> None:
        disk, size = self.disk, self.disk.sector_size
        found = get(disk, sector, count)
        where = slice(sector * size, (sector + count) * size)
        before = bytes(self.bytes[where])
        if disk.unmap_behaviour is Unmap.ZEROES:
            assert not any(found)
        elif disk.unmap_behaviour is Unmap.IGNORED:
            assert found == before
        else:
            for at in range(0, len(found), size):
                part = found[at : at + size]
                assert part == before[at : at + size] or not any(part)
        self.bytes[where] = found

    def check(self) -> None:
        assert content(self.disk) == self.bytes
        self.disk.close()
        assert not self.chain.damage()
        self.disk = self.chain.open(read_only=True)
        assert content(self.disk) == self.bytes
        self.disk.close()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_an_image_is_an_array_of_bytes(form: str, steps: list[tuple[Any, ...]]) -> None:
    model = Model(Chain(FORMS[form]))
    for step in steps:
        model.step(*step)
    model.check()


@pytest.mark.parametrize("form", ["vhdx-dynamic", "vhdx-4k", "vhdx-fixed", "vhdx-differencing"])
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_resized_image_keeps_what_it_has(form: str, sizes: list[int], seed: int) -> None:
    chain = Chain(FORMS[form])
    disk = chain.open()
    expected = bytearray(chain.content)
    for halves in sizes:
        size = (halves << 19) + 4096
        if FORMS[form].differencing:
            size = max(size, disk.byte_count)
        run(disk.resize(size // disk.sector_size))
        expected = expected[:size].ljust(size, b"\0")
        data = noise(2 * disk.sector_size, seed)
        last = disk.sector_count - 2
        run(disk.write(last, [memoryview(bytearray(data))]))
        expected[last * disk.sector_size :] = data
        with pytest.raises(IllegalBlock):
            get(disk, disk.sector_count, 1)
        disk = _again(chain, disk)
        assert content(disk) == expected
    disk.close()
    assert not chain.damage()


def _again(chain: Chain, disk: Disk) -> Disk:
    disk.close()
    return chain.open()


class Waiting(Filter):
    """Every operation waits before it begins, so that others come in between."""

    async def read(self, sector: int, buffers: Buffers) -> None:
        await blocking(lambda: None)
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        await blocking(lambda: None)
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        await blocking(lambda: None)
        await self.below.flush()

    async def resize(self, sector_count: int) -> None:
        await blocking(lambda: None)
        await self.below.resize(sector_count)


@pytest.mark.parametrize("form", [name for name in FORMS if "dynamic" in name or "diff" in name])
def test_many_writers_of_the_same_blocks_at_once(form: str) -> None:
    chain = Chain(FORMS[form])
    disk = chain.open(Waiting(chain.store))
    count = disk.sector_count // 40
    data = noise(40 * count * disk.sector_size)
    size = count * disk.sector_size
    operations = []
    for number in range(40):
        part = memoryview(bytearray(data[number * size : (number + 1) * size]))
        operations.append(disk.write(number * count, [part], number % 7 == 0))
        if number % 10 == 5:
            operations.append(disk.flush())
    run(together(operations))
    assert content(disk)[: len(data)] == data
    disk.close()
    assert not chain.damage()
    disk = chain.open()
    assert content(disk)[: len(data)] == data
    disk.close()
