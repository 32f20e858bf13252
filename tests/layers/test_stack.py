"""What layers make a disk, caches, and write-through; openvmm.md sections 3.2 to 3.6."""

from __future__ import annotations

import logging

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Unmap
from drivebay.disk.errors import DiskOpenError, IoError
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.stack import LayerError, Misplaced, Place
from drivebay.suspend import Blocking, run
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import Stepped, fill, get, noise, put, view

SECTORS = 64
SIZE = SECTORS * 512


def cache_over(base: RamDisk | RecordingDisk | PuppetDisk, **place: bool) -> LayeredDisk:
    cache = Place(RamLayer(SIZE), read_cache=True, **place)
    return LayeredDisk([cache, DiskLayer(base)], read_only=not place)


def held(layer: object) -> list[tuple[int, int]]:
    assert isinstance(layer, RamLayer)
    return list(layer.held)


@pytest.mark.parametrize(
    ("places", "reason", "number"),
    [
        ([], Misplaced.NO_LAYERS, 0),
        ([RamLayer(SIZE), DiskLayer(RamDisk(SIZE, sector_size=4096))], "MISMATCHED_SECTOR_SIZE", 1),
        ([RamLayer(SIZE), Place(DiskLayer(RamDisk(SIZE)), read_cache=True)], None, 1),
        ([Place(RamLayer(SIZE), write_through=True)], Misplaced.USELESS_WRITE_THROUGH, 0),
        (
            [RamLayer(SIZE), Place(RamLayer(SIZE), write_through=True), RamLayer(SIZE)],
            Misplaced.USELESS_WRITE_THROUGH,
            1,
        ),
        ([DiskLayer(RamDisk(SIZE, read_only=True))], Misplaced.READ_ONLY, 0),
        (
            [
                Place(RamLayer(SIZE), write_through=True),
                DiskLayer(RamDisk(SIZE, read_only=True)),
            ],
            Misplaced.READ_ONLY,
            1,
        ),
    ],
)
def test_layers_that_make_no_disk_are_refused_by_name(
    places: list[RamLayer | Place], reason: Misplaced | str | None, number: int
) -> None:
    """openvmm.md section 3.3."""
    if not isinstance(reason, Misplaced):
        reason = Misplaced[reason or "READ_CACHE_NOT_SUPPORTED"]
    with pytest.raises(LayerError) as caught:
        LayeredDisk(places)
    assert (caught.value.reason, caught.value.number) == (reason, number)
    assert isinstance(caught.value, DiskOpenError)
    assert "\n" not in str(caught.value)


def test_a_layer_of_impossible_sectors_is_refused() -> None:
    layer = RamLayer(SIZE)
    layer.sector_size = 1000
    with pytest.raises(LayerError) as caught:
        LayeredDisk([layer])
    assert caught.value.reason is Misplaced.INVALID_SECTOR_SIZE


def test_what_the_disk_is_like_is_derived_from_its_layers() -> None:
    """openvmm.md section 3.4."""

    def layer(**values: object) -> RamLayer:
        made = RamLayer(SIZE)
        for name, value in values.items():
            setattr(made, name, value)
        return made

    top = layer(physical_sector_size=4096, optimal_unmap_sectors=8)
    middle = layer(volatile_cache=True, disk_id=b"m" * 16, optimal_unmap_sectors=16)
    low = layer(disk_id=b"l" * 16, persistent=True, unmap_behaviour=Unmap.UNSPECIFIED)
    alone = LayeredDisk([top, middle, low])
    assert (alone.physical_sector_size, alone.optimal_unmap_sectors) == (4096, 8)
    assert (alone.volatile_cache, alone.persistent) == (False, False)
    assert (alone.disk_id, alone.unmap_behaviour) == (b"m" * 16, Unmap.ZEROES)
    two = LayeredDisk([Place(top, write_through=True), middle, low])
    assert (two.volatile_cache, two.optimal_unmap_sectors) == (True, 16)
    assert (two.persistent, two.unmap_behaviour) == (False, Unmap.ZEROES)
    through = Place(middle, write_through=True)
    three = LayeredDisk([Place(top, write_through=True), through, low])
    assert (three.persistent, three.unmap_behaviour) == (True, Unmap.IGNORED)
    assert LayeredDisk([low]).unmap_behaviour is Unmap.UNSPECIFIED


def test_what_is_read_is_read_once() -> None:
    """openvmm.md section 3.6, test_read_cache: five reads of a sector, then one of fifteen."""
    below = RecordingDisk(RamDisk(SIZE))
    data = fill(below.below)
    disk = cache_over(below)
    for sector in (1, 3, 5, 7, 9):
        assert get(disk, sector, 1) == data[sector * 512 : (sector + 1) * 512]
    assert get(disk, 1, 15) == data[512 : 16 * 512]
    assert held(disk.layers[0]) == [(1, 15)]
    asked = sum(call.count for call in below.calls)
    assert asked == 15
    assert get(disk, 1, 15) == data[512 : 16 * 512]
    assert sum(call.count for call in below.calls) == asked


def test_a_large_read_is_cached_by_the_mebibyte() -> None:
    base = RamDisk(4 << 20)
    data = fill(base)
    cache = Place(RamLayer(4 << 20), read_cache=True)
    disk = LayeredDisk([cache, DiskLayer(base)], read_only=True)
    assert get(disk, 1, disk.sector_count - 1) == data[512:]
    assert sum(count for _, count in held(disk.layers[0])) == disk.sector_count - 1
    base.close()
    assert get(disk, 1, disk.sector_count - 1) == data[512:]


def test_many_readers_of_one_range_read_the_same() -> None:
    base = RamDisk(SIZE)
    data = fill(base)
    puppet = PuppetDisk(base)
    disk = cache_over(puppet)
    buffers = [view(8 * 512) for _ in range(4)]
    reads = [Stepped(disk.read(4 + at, [buffer])) for at, buffer in enumerate(buffers)]
    for operation in reversed(puppet.held):
        operation.complete()
    assert all(read.done for read in reads)
    for at, buffer in enumerate(buffers):
        assert buffer == data[(4 + at) * 512 : (12 + at) * 512]
    assert held(disk.layers[0]) == [(4, 11)]


def test_a_guest_that_changes_its_buffer_does_not_change_the_cache() -> None:
    base = RamDisk(SIZE)
    data = fill(base)
    buffer = view(512)

    class Flipping(RamLayer):
        async def put(self, sector: int, buffers: Buffers) -> None:
            buffer[:] = bytes(512)
            await super().put(sector, buffers)

    disk = LayeredDisk([Place(Flipping(SIZE), read_cache=True), DiskLayer(base)], read_only=True)
    run(disk.read(0, [buffer]))
    assert get(disk, 0, 1) == data[:512]


def test_a_cache_that_cannot_keep_it_is_no_reason_to_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(RamLayer):
        async def put(self, sector: int, buffers: Buffers) -> None:
            raise IoError(5, "put")

    base = RamDisk(SIZE)
    data = fill(base)
    disk = LayeredDisk([Place(Broken(SIZE), read_cache=True), DiskLayer(base)], read_only=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert get(disk, 0, SECTORS) == data
    assert len(caplog.records) == 1  # a guest can cause as many as it likes


def test_what_changes_while_a_miss_waits_is_not_cached_as_it_was() -> None:
    """Hostile 4.9: the old content must not come back by way of the cache."""
    base = RamDisk(SIZE)
    fill(base)
    puppet = PuppetDisk(base, holds=lambda name, sector, count: name == "read")
    disk = cache_over(puppet, write_through=True)
    for change in ("write", "unmap", "shrink"):
        read = Stepped(disk.read(8, [view(512)]))
        if change == "write":
            put(disk, 8, noise(512, 3))
        elif change == "unmap":
            run(disk.unmap(8, 1))
        else:
            run(disk.resize(4))
            run(disk.resize(SECTORS))
        puppet.complete_all()
        assert read.done
        puppet.holds = lambda name, sector, count: False
        assert get(disk, 8, 1) == (noise(512, 3) if change == "write" else bytes(512))
        run(disk.layers[0].unmap(8, 1, True))
        puppet.holds = lambda name, sector, count: name == "read"


def test_what_all_layers_have_dropped_is_not_brought_back_by_a_miss_under_way() -> None:
    class Slow(RamLayer):
        async def read(self, sector: int, buffers: Buffers) -> None:
            await self.below.read(sector, buffers)
            await Blocking(lambda: None)

    low = Slow(SIZE)
    disk = LayeredDisk([Place(RamLayer(SIZE), read_cache=True, write_through=True), low])
    put(low, 8, noise(512))
    read = Stepped(disk.read(8, [view(512)]))
    run(disk.unmap(8, 1))
    read.work()
    assert read.done
    assert get(disk, 8, 1) == bytes(512)


def test_writes_go_through_and_flushes_begin_at_the_bottom() -> None:
    order: list[str] = []

    class Noted(DiskLayer):
        def __init__(self, name: str) -> None:
            super().__init__(RamDisk(SIZE))
            self.name = name

        async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
            order.append(f"write {self.name}{' fua' * fua}")

        async def flush(self) -> None:
            order.append(f"flush {self.name}")

    top, middle, low = Noted("top"), Noted("middle"), Noted("low")
    through = [Place(layer, write_through=True) for layer in (top, middle)]
    disk = LayeredDisk([*through, low, Noted("base")])
    put(disk, 0, noise(512), fua=True)
    run(disk.flush())
    assert order == [
        *("write top fua", "write middle fua", "write low fua"),
        *("flush low", "flush middle", "flush top"),
    ]


def test_what_lies_past_a_shorter_layer_is_written_above_it_only() -> None:
    low = RamDisk(SIZE // 2)
    disk = LayeredDisk([Place(RamLayer(SIZE), write_through=True), DiskLayer(low)])
    data = fill(disk)
    assert get(disk, 0, SECTORS) == data
    assert get(low, 0, SECTORS // 2) == data[: SIZE // 2]
    run(disk.write_zeroes(SECTORS // 2 - 2, 4))
    assert get(disk, SECTORS // 2 - 2, 4) == bytes(4 * 512)
    assert get(low, SECTORS // 2 - 2, 2) == bytes(2 * 512)
