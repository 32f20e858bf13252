"""Layers that come and go under a running disk, and a layer that moves to another base."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import DiskError, InvalidInput, IoError, ReadOnly
from drivebay.disk.filters.base import Filter
from drivebay.disk.layers import operations
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layer import Layer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.operations import commit, rebase, snapshot
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.sql import open_over
from drivebay.platform.engine import Engine
from drivebay.suspend import run
from drivebay.testing import PuppetDisk
from tests.disk.support import Stepped, fill, get, noise, put
from tests.disk.test_model import SECTOR, DiskMachine

SECTORS = 64
SIZE = SECTORS * 512


def ram_over(base: RamDisk) -> LayeredDisk:
    return LayeredDisk.over(RamLayer(base.byte_count), base)


def puppet_layer() -> tuple[PuppetDisk, Layer]:
    puppet = PuppetDisk(RamDisk(SIZE), holds=lambda name, sector, count: False)
    return puppet, DiskLayer(puppet)


# -- snapshot ------------------------------------------------------------------------------------


def test_who_holds_a_bound_method_writes_to_the_new_top() -> None:
    disk = ram_over(RamDisk(SIZE))
    write, read, outer = disk.write, disk.read, Filter(disk)
    run(write(0, [memoryview(noise(512))]))
    run(snapshot(disk, RamLayer(SIZE)))
    run(write(0, [memoryview(noise(512, 2))]))
    put(outer, 1, noise(512, 3))
    data = bytearray(1024)
    run(read(0, [memoryview(data)]))
    assert data == noise(512, 2) + noise(512, 3)
    assert list(disk.layers[1].held) == [(0, 1)]  # type: ignore[attr-defined]
    assert get(disk.layers[1], 0, 2) == noise(512) + bytes(512)


def test_a_snapshot_waits_for_changes_under_way_and_holds_those_that_come() -> None:
    puppet, layer = puppet_layer()
    disk = LayeredDisk([layer])
    puppet.holds = lambda name, sector, count: name == "write"
    first = Stepped(disk.write(0, [memoryview(noise(512))]))
    taken = Stepped(snapshot(disk, RamLayer(SIZE)))
    second = Stepped(disk.write(0, [memoryview(noise(512, 2))]))
    assert not (first.done or taken.done or second.done)
    puppet.complete_all()
    assert first.done
    assert taken.done
    assert second.done
    assert get(disk, 0, 1) == noise(512, 2)
    puppet.holds = lambda name, sector, count: False
    assert get(puppet, 0, 1) == noise(512)


def test_an_operation_made_before_and_begun_after_goes_to_the_new_top() -> None:
    puppet, layer = puppet_layer()
    puppet.holds = lambda name, sector, count: False
    disk = LayeredDisk([layer])
    late = disk.write(0, [memoryview(noise(512))])
    run(snapshot(disk, RamLayer(SIZE)))
    run(late)
    assert get(disk, 0, 1) == noise(512)
    assert get(puppet, 0, 1) == bytes(512)


def test_an_operation_that_had_happened_when_it_was_made_is_below_the_new_top() -> None:
    disk = ram_over(RamDisk(SIZE))
    early = disk.write(0, [memoryview(noise(512))])
    run(snapshot(disk, RamLayer(SIZE)))
    run(disk.write(0, [memoryview(noise(512, 2))]))
    run(early)
    assert get(disk, 0, 1) == noise(512, 2)
    assert get(disk.layers[1], 0, 1) == noise(512)


def test_a_disk_that_is_only_read_passes_no_write_on() -> None:
    """Though the layer itself could be written."""
    layer = RamLayer(SIZE)
    disk = LayeredDisk([layer], read_only=True)
    with pytest.raises(ReadOnly):
        run(disk.write(0, [memoryview(noise(512))]))
    assert list(layer.held) == []


def test_what_was_written_before_is_stable_when_the_next_flush_says_so(tmp_path: Path) -> None:
    puppet, layer = puppet_layer()
    disk = LayeredDisk([layer])
    puppet.holds = lambda name, sector, count: name == "flush"
    taken = Stepped(snapshot(disk, RamLayer(SIZE)))
    flush = Stepped(disk.flush())
    assert not (taken.done or flush.done)
    [held] = puppet.held
    held.complete()
    assert taken.done
    assert flush.done


def test_a_snapshot_whose_flush_fails_has_not_happened() -> None:
    puppet, layer = puppet_layer()
    disk = LayeredDisk([layer])
    puppet.holds = lambda name, sector, count: name == "flush"
    taken = Stepped(_raises(snapshot(disk, RamLayer(SIZE)), IoError))
    puppet.held[0].fail(IoError(5, "flush"))
    assert taken.done
    assert disk.layers == (layer,)
    puppet.holds = lambda name, sector, count: False
    put(disk, 0, noise(512))
    assert get(puppet, 0, 1) == noise(512)


async def _raises(operation: Any, error: type[DiskError]) -> None:
    with pytest.raises(error):
        await operation


def test_a_layer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = FileDisk(str(tmp_path / "image"), create=SIZE)
    disk = LayeredDisk([DiskLayer(file)])
    with pytest.raises(InvalidInput, match="would lose what the disk has promised"):
        run(snapshot(disk, RamLayer(SIZE)))
    other = ram_over(RamDisk(SIZE))
    for layer in (RamLayer(2 * SIZE), RamLayer(SIZE, sector_size=4096)):
        with pytest.raises(InvalidInput, match="over a disk of 64 of 512"):
            run(snapshot(other, layer))
    read_only = LayeredDisk([RamLayer(SIZE)], read_only=True)
    with pytest.raises(InvalidInput, match="read-only"):
        run(snapshot(read_only, RamLayer(SIZE)))
    disk.close()


def test_what_the_disk_has_promised_it_keeps_over_a_weaker_layer(tmp_path: Path) -> None:
    disk = ram_over(RamDisk(SIZE))
    fill(disk)
    assert not disk.volatile_cache
    top = open_over(str(tmp_path / "top.dbhd"), disk, create=True, read_only=False)
    run(snapshot(disk, top))
    put(disk, 0, noise(512))
    assert top.file.read(0, 1)[1] == []  # stable, without a flush
    run(disk.unmap(8, 2))
    assert get(disk, 8, 2) == bytes(1024)
    assert top.file.read(8, 2)[1] == []
    disk.close()


# -- commit --------------------------------------------------------------------------------------


def test_a_commit_leaves_the_content_and_one_layer_less() -> None:
    base = RamDisk(SIZE)
    model = bytearray(fill(base))
    disk = LayeredDisk.over(RamLayer(SIZE), ram_over(base))
    put(disk, 3, noise(4096))
    run(disk.write_zeroes(20, 8))
    model[3 * 512 : 3 * 512 + 4096] = noise(4096)
    model[20 * 512 : 28 * 512] = bytes(4096)
    run(commit(disk)).close()
    assert len(disk.layers) == 2
    assert get(disk, 0, SECTORS) == model
    assert get(base, 0, SECTORS) != model
    run(commit(disk)).close()
    assert get(base, 0, SECTORS) == model
    with pytest.raises(InvalidInput, match="no layer to merge"):
        run(commit(disk))


def test_a_commit_makes_the_lower_layer_as_large_and_hides_what_was_cut_off() -> None:
    base = RamDisk(SIZE)
    below = fill(base)
    disk = ram_over(base)
    run(disk.resize(10))
    run(disk.resize(2 * SECTORS))
    put(disk, 100, noise(512))
    heard: list[int] = []
    disk.on_resize(heard.append)
    expected = below[:5120] + bytes(90 * 512) + noise(512) + bytes(27 * 512)
    assert get(disk, 0, 2 * SECTORS) == expected
    run(commit(disk)).close()
    assert get(disk, 0, 2 * SECTORS) == get(base, 0, 2 * SECTORS) == expected
    run(disk.resize(5))
    assert heard == [5]


@pytest.mark.parametrize("seed", range(5))
def test_a_commit_of_a_disk_that_is_written_all_the_time(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "CHUNK", 2048)
    base = RamDisk(SIZE)
    model = bytearray(fill(base))
    disk = ram_over(base)
    engine = Engine(workers=1)
    rng = random.Random(seed)
    ended: list[BaseException | None] = []

    def change() -> None:
        sector, count = rng.randrange(60), rng.randrange(1, 5)
        data = noise(count * 512, rng.randrange(1 << 30)) if rng.random() < 0.7 else None
        model[sector * 512 : (sector + count) * 512] = data or bytes(count * 512)
        operation = (
            disk.write(sector, [memoryview(data)]) if data else disk.write_zeroes(sector, count)
        )
        engine.start(operation, lambda value, error: ended.append(error))
        engine.run_until(lambda: len(ended) == made)

    made = 0
    while made < 40:
        made += 1
        change()
    merged: list[Any] = []
    engine.start(commit(disk), lambda value, error: merged.append(error))
    while not merged:
        made += 1
        change()
    assert merged == [None]
    assert ended == [None] * made
    assert made > 42
    assert len(disk.layers) == 1
    assert get(disk, 0, SECTORS) == get(base, 0, SECTORS) == model
    engine.close()


def test_a_commit_that_fails_leaves_the_disk_as_it_was() -> None:
    puppet, into = puppet_layer()
    fill(puppet)
    disk = LayeredDisk([RamLayer(SIZE), into])
    data = fill(disk, 2)
    puppet.holds = lambda name, sector, count: name in ("write", "flush")
    merging = Stepped(_raises(commit(disk), IoError))
    merging.work()  # what the top holds was looked up
    puppet.held[0].fail(IoError(5, "write"))
    assert merging.done
    puppet.holds = lambda name, sector, count: False
    assert len(disk.layers) == 2
    assert get(disk, 0, SECTORS) == data
    put(disk, 0, noise(512))
    assert get(puppet, 0, 1) != noise(512)
    run(commit(disk)).close()
    assert get(puppet, 0, SECTORS) == noise(512) + data[512:]


def test_while_a_layer_is_merged_no_other_comes_and_no_size_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operations, "CHUNK", SIZE // 2)
    puppet, into = puppet_layer()
    disk = LayeredDisk([RamLayer(SIZE), into])
    data = fill(disk)
    puppet.holds = lambda name, sector, count: name == "write"
    merging = Stepped(_merge(disk))
    merging.work()
    others = [disk.resize(4), snapshot(disk, RamLayer(SIZE))]
    refused = [Stepped(_raises(other, InvalidInput)) for other in others]
    puppet.complete_all()  # half of it: now they have their turn
    assert [other.done for other in refused] == [True, True]
    merging.work()
    puppet.complete_all()
    assert merging.done
    assert disk.layers == (into,)
    assert get(disk, 0, SECTORS) == data


async def _merge(disk: LayeredDisk) -> None:
    await commit(disk)


def test_a_layer_that_is_read_only_takes_no_commit() -> None:
    disk = LayeredDisk.over(RamLayer(SIZE), RamDisk(SIZE, read_only=True))
    with pytest.raises(InvalidInput, match="is read-only"):
        run(commit(disk))


class ComingAndGoingMachine(DiskMachine):
    """Snapshots and commits between any other operations."""

    @initialize()
    def start(self) -> None:
        base = RamDisk(16 * SECTOR)
        self.model = bytearray(fill(base))
        self.disk = ram_over(base)

    def layered(self) -> LayeredDisk:
        assert isinstance(self.disk, LayeredDisk)
        return self.disk

    @precondition(lambda self: len(self.disk.layers) < 8)
    @rule()
    def snapshot(self) -> None:
        size = self.disk.byte_count
        run(snapshot(self.layered(), RamLayer(size)))

    @precondition(lambda self: len(self.disk.layers) > 1)
    @rule()
    def commit(self) -> None:
        run(commit(self.layered())).close()


TestComingAndGoing = ComingAndGoingMachine.TestCase
TestComingAndGoing.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- rebase --------------------------------------------------------------------------------------

sparse = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8), st.integers(0, 3)), max_size=5)


@settings(deadline=None, max_examples=60)
@given(sparse, sparse, sparse, st.integers(20, 90), st.integers(20, 90))
def test_a_layer_shows_the_same_over_its_new_base(
    old_content: Any, new_content: Any, own: Any, old_sectors: int, new_sectors: int
) -> None:
    def made(sectors: int, content: Any) -> RamDisk:
        disk = RamDisk(sectors * 512)
        write_all(disk.write, sectors, content)
        return disk

    def write_all(write: Callable[[int, Buffers], Any], sectors: int, content: Any) -> None:
        for sector, count, seed in content:
            if sector + count <= sectors:
                run(write(sector, [memoryview(noise(count * 512, seed))]))

    old, new = made(old_sectors, old_content), made(new_sectors, new_content)
    layer = RamLayer(SIZE)
    write_all(layer.write, SECTORS, own)
    before = get(LayeredDisk.over(layer, old), 0, SECTORS)
    run(rebase(layer, old, new))
    assert get(LayeredDisk.over(layer, new), 0, SECTORS) == before
    assert get(LayeredDisk.over(layer, old), 0, SECTORS) == before
    alike = RamLayer(SIZE)
    run(rebase(alike, old, old))
    assert list(alike.held) == []


def test_only_what_differs_is_taken() -> None:
    old, new = RamDisk(1 << 20), RamDisk(1 << 20)
    data = fill(old)
    put(new, 0, data)
    put(new, 700, noise(1024))
    layer = RamLayer(1 << 20)
    run(rebase(layer, old, new))
    assert list(layer.held) == [(700, 2)]
    with pytest.raises(InvalidInput, match="sectors of 512, 512 and 4096"):
        run(rebase(layer, old, RamDisk(1 << 20, sector_size=4096)))


# -- protection ------------------------------------------------------------------------------------


def test_a_protected_disk_cannot_be_changed_and_is_flushed_first() -> None:
    """A change under way ends before that; what comes later fails."""
    puppet = PuppetDisk(RamDisk(SIZE))
    disk = LayeredDisk([DiskLayer(puppet)])
    write = Stepped(disk.write(0, [memoryview(bytearray(b"x" * 512))]))
    protect = Stepped(disk.protect(True))
    assert not protect.done
    [held] = puppet.held
    held.complete()
    assert write.done
    [flush] = puppet.held
    assert flush.name == "flush"
    flush.complete()
    assert protect.done
    for change in (
        lambda: disk.write(0, [memoryview(bytearray(512))]),
        lambda: disk.unmap(0, 1),
        lambda: disk.write_zeroes(0, 1),
    ):
        with pytest.raises(ReadOnly):
            run(change())
    run(disk.flush())
    puppet.holds = lambda *_: False
    assert get(disk, 0, 1) == b"x" * 512
    run(disk.protect(False))
    put(disk, 0, b"y" * 512)
    assert get(disk, 0, 1) == b"y" * 512
