"""A hundred layers: what the merged index says, what it costs, and that it stays small."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.layers import index
from drivebay.disk.layers.index import MergedIndex
from drivebay.disk.layers.layer import NOTHING, Layer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.presence import REGION, Run, SectorSet
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import fill, get, noise, put

END = 2 * REGION + 100

places = st.one_of(
    st.integers(0, END - 1), st.sampled_from([0, 1, REGION - 1, REGION, 2 * REGION - 1, END - 1])
)
ranges = st.lists(st.tuples(places, places), max_size=4)


class Held(Layer):
    """A layer of which nothing but what it holds matters."""

    def __init__(self, held: list[tuple[int, int]]) -> None:
        super().__init__()
        self.held, self.asked = SectorSet(), 0
        for a, b in held:
            self.held.add(min(a, b), abs(a - b) + 1)

    def runs(self, sector: int, count: int) -> list[Run]:
        self.asked += 1
        return self.held.runs(sector, count)


@given(st.lists(st.tuples(ranges, st.integers(1, END)), max_size=4), places, places)
def test_the_index_says_what_the_layers_would(
    layers: list[tuple[list[tuple[int, int]], int]], a: int, b: int
) -> None:
    held = [Held(sectors) for sectors, _ in layers]
    visible = [min(count for _, count in layers[: at + 1]) for at in range(len(layers))]
    merged = MergedIndex(held, visible)
    start, end = min(a, b), max(a, b) + 1

    def owner(sector: int) -> Layer:
        for layer, seen in zip(held, visible, strict=True):
            if sector >= seen:
                return NOTHING
            if layer.held.runs(sector, 1)[0][2]:
                return layer
        return NOTHING

    owned = run(merged.owners(start, end - start))
    at = start
    for first, count, layer in owned:
        assert first == at
        for sector in {first, first + count // 2, first + count - 1}:
            assert owner(sector) is layer
        at += count
    assert at == end
    assert all(one[2] is not other[2] for one, other in pairwise(owned))
    if held and start >> 16 == (end - 1) >> 16:
        assert merged.owner(start, end - start) is (owned[0][2] if len(owned) == 1 else None)


def test_a_layer_is_asked_once_for_a_region() -> None:
    layers = [Held([(number, number)]) for number in range(100)]
    merged = MergedIndex(layers, [REGION] * 100)
    for _ in range(3):
        assert run(merged.owners(0, 100)) == [(n, 1, layer) for n, layer in enumerate(layers)]
    before = [layer.asked for layer in layers]
    assert merged.owner(50, 1) is layers[50]
    assert before == [layer.asked for layer in layers]


def test_the_index_forgets_what_it_has_known_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MOST_ENTRIES", 50)
    layer = Held([(0, 10 * REGION)])
    merged = MergedIndex([layer], [10 * REGION])
    for number in range(10):
        run(merged.owners(number * REGION, 1))
    assert len(merged._regions) == 2
    assert merged._entries <= 50
    assert merged.owner(0, 1) is None
    assert merged.owner(9 * REGION, 1) is layer


def test_a_hundred_layers_read_as_the_last_writes_were() -> None:
    disk = open_disk("memdiff:" * 100 + "mem:1M")
    assert isinstance(disk, LayeredDisk)
    assert len(disk.layers) == 101
    assert get(disk, 0, disk.sector_count) == bytes(1 << 20)
    disk.close()
    rng = random.Random(4)
    base = RamDisk(1 << 20)
    model = bytearray(fill(base))
    top = LayeredDisk.over(RamLayer(1 << 20), base)
    for number in range(100):
        for _ in range(3):
            sector, count = rng.randrange(2000), rng.randrange(1, 40)
            put(top, sector, noise(count * 512, number))
            model[sector * 512 : (sector + count) * 512] = noise(count * 512, number)
        sector = rng.randrange(2000)
        run(top.unmap(sector, 5))
        model[sector * 512 : (sector + 5) * 512] = bytes(5 * 512)
        if number == 60:
            run(top.resize(1500))
            run(top.resize(2048))
            model[1500 * 512 :] = bytes(548 * 512)
        assert get(top, 0, 2048) == model
        top = LayeredDisk.over(RamLayer(1 << 20), top)
    assert sum(extent.count for extent in run(top.extents(0, 2048))) == 2048


def test_a_read_below_a_hundred_layers_asks_the_top_and_the_base() -> None:
    """As often as below one: what a layer costs is the asking."""
    asked: list[Layer] = []

    class Asked(RamLayer):
        def __init__(self) -> None:
            super().__init__(1 << 20)
            self._runs, self.runs = self.runs, self._asked  # type: ignore[method-assign]

        def _asked(self, sector: int, count: int) -> list[Run]:
            asked.append(self)
            return self._runs(sector, count)

    base = RamDisk(1 << 20)
    data = fill(base)
    disk = LayeredDisk.over(Asked(), base)
    for _ in range(99):
        disk = LayeredDisk.over(Asked(), disk)
    assert get(disk, 8, 8) == data[8 * 512 : 16 * 512]
    asked.clear()
    for sector in range(0, 2048, 8):
        assert get(disk, sector, 8) == data[sector * 512 : (sector + 8) * 512]
    assert asked == [disk.layers[0]] * 256
