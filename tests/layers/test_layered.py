"""Layered disks and the RAM layer; the cases of openvmm.md sections 3.3, 3.6 and 4.1."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError, ReadOnly
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layer import ReadBelow
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.presence import Run, SectorSet
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import Stepped, fill, get, noise, put, view

SECTORS = 64
SIZE = SECTORS * 512


def over(base: Disk, sectors: int = SECTORS) -> LayeredDisk:
    return LayeredDisk.over(RamLayer(sectors * 512), base)


def held(layer: object) -> list[tuple[int, int]]:
    assert isinstance(layer, RamLayer)
    sectors: SectorSet = layer._held
    return [(start, count) for start, count, present in sectors.runs(0, 1 << 20) if present]


def test_writes_shadow_and_the_rest_shows_through() -> None:
    base = RamDisk(SIZE)
    below = fill(base)
    disk = over(base)
    put(disk, 10, noise(1024, 5))
    assert get(disk, 0, SECTORS) == below[: 10 * 512] + noise(1024, 5) + below[12 * 512 :]
    assert get(base, 0, SECTORS) == below


def test_what_a_shrink_cut_off_does_not_come_back() -> None:
    base = RamDisk(SIZE)
    below = fill(base)
    disk = over(base)
    put(disk, 60, noise(512))
    heard: list[int] = []
    disk.on_resize(heard.append)
    run(disk.resize(32))
    run(disk.resize(128))
    assert heard == [32, 128]
    assert get(disk, 0, 128) == below[: 32 * 512] + bytes(96 * 512)
    again = LayeredDisk.over(RamLayer(disk.byte_count), disk)
    assert get(again, 0, 128) == below[: 32 * 512] + bytes(96 * 512)


def test_a_read_that_starts_beyond_a_shorter_layer_is_zero() -> None:
    """openvmm.md section 23, bug 5."""
    base = RamDisk(SIZE)
    below = fill(base)
    disk = over(base, 2 * SECTORS)
    assert get(disk, SECTORS + 1, 2) == bytes(1024)
    assert get(disk, SECTORS, 1) == bytes(512)
    assert get(disk, SECTORS - 1, 3) == below[-512:] + bytes(1024)


def test_unmap_hides_what_is_below_and_drops_what_needs_no_hiding() -> None:
    base = RamDisk(SIZE)
    below = fill(base)
    disk = over(base, 2 * SECTORS)
    put(disk, 0, noise(2 * SIZE))
    run(disk.unmap(SECTORS - 4, 8))
    assert held(disk.layers[0]) == [(0, SECTORS), (SECTORS + 4, SECTORS - 4)]
    assert get(disk, SECTORS - 4, 8) == bytes(8 * 512)
    run(disk.write_zeroes(0, 2 * SECTORS))
    assert held(disk.layers[0]) == [(0, SECTORS)]
    assert get(disk, 0, 2 * SECTORS) == bytes(2 * SIZE)
    assert disk.allocated_bytes == 0
    assert get(base, 0, SECTORS) == below


def test_unmap_over_a_layer_with_holes_hides_only_what_it_holds() -> None:
    middle = LayeredDisk([RamLayer(SIZE)])
    put(middle, 20, noise(1024))
    disk = LayeredDisk.over(RamLayer(SIZE), middle)
    run(disk.unmap(10, 30))
    assert held(disk.layers[0]) == [(20, 2)]
    assert get(disk, 0, SECTORS) == bytes(SIZE)


def test_layers_of_a_layered_disk_are_taken_over_one_by_one() -> None:
    base = RamDisk(SIZE)
    disk = over(over(over(base)))
    assert [layer.kind for layer in disk.layers] == ["ram layer"] * 3 + ["disk layer"]
    assert [below.kind for below in disk.inner] == ["ram layer"] * 3 + ["mem"]


def test_one_read_takes_from_every_layer_into_buffers_cut_anywhere() -> None:
    base = RamDisk(SIZE)
    model = bytearray(fill(base))
    disk = over(over(base))
    for sector in (1, 3, 4, 9, 15):
        put(LayeredDisk([disk.layers[1]]), sector, noise(512, sector))
        model[sector * 512 : sector * 512 + 512] = noise(512, sector)
    for sector in (2, 4, 14, 15):
        put(disk, sector, noise(512, 100 + sector))
        model[sector * 512 : sector * 512 + 512] = noise(512, 100 + sector)
    data = view(20 * 512)
    run(disk.read(0, [data[:1], data[1:700], data[700:700], data[700:9000], data[9000:]]))
    assert data == model[: 20 * 512]


def test_a_read_of_one_layer_reaches_it_as_it_is() -> None:
    witness = RecordingDisk(RamDisk(SIZE))
    disk = over(over(witness))
    data = view(2048)
    run(disk.read(7, [data[:9], data[9:]]))
    assert [(call.name, call.sector, call.count) for call in witness.calls] == [("read", 7, 4)]


def test_no_other_layer_is_written() -> None:
    witness = RecordingDisk(RamDisk(SIZE))
    disk = over(witness)
    put(disk, 0, noise(SIZE))
    run(disk.unmap(0, 4))
    run(disk.write_zeroes(8, 4, fua=True, unmap=True))
    run(disk.flush())
    run(disk.resize(10))
    run(disk.refresh())
    assert witness.calls == []


def test_an_overwritten_sector_never_shows_what_is_below_while_a_read_waits() -> None:
    """Hostile 4.9: a read gives the last completed write or one that is under way."""
    base = RamDisk(SIZE)
    below = fill(base)
    puppet = PuppetDisk(base)
    disk = over(puppet)
    data = view(1024)
    read = Stepped(disk.read(0, [data]))
    put(disk, 1, noise(512, 9))
    puppet.complete_all()
    assert read.done
    assert data == below[:1024]
    puppet.holds = lambda name, sector, count: False
    assert get(disk, 0, 2) == below[:512] + noise(512, 9)


def test_a_layered_disk_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(DiskOpenError, match="layers: there are none"):
        LayeredDisk([])
    with pytest.raises(DiskOpenError, match=r"layer 1 .* 512 bytes\): has other sectors"):
        LayeredDisk.over(RamLayer(SIZE, sector_size=4096), RamDisk(SIZE))
    with pytest.raises(DiskOpenError, match="read-only"):
        LayeredDisk([DiskLayer(RamDisk(SIZE, read_only=True))])
    for size, sector_size in ((5000, 4096), (0, 512), (SIZE, 1000), (SIZE, 256)):
        with pytest.raises(DiskOpenError):
            RamLayer(size, sector_size=sector_size)


def test_memdiff_takes_its_sizes_from_below_and_opens_it_read_only(tmp_path: Path) -> None:
    path = tmp_path / "base"
    FileDisk(str(path), create=1 << 20, sector_size=4096).close()
    disk = open_disk(f"memdiff:file:{path};sector=4096")
    assert (disk.sector_size, disk.sector_count) == (4096, 256)
    assert disk.inner[1].read_only
    assert not disk.read_only
    assert not disk.volatile_cache
    assert disk.disk_id == disk.inner[1].disk_id
    put(disk, 0, noise(4096))
    assert path.read_bytes() == bytes(1 << 20)
    disk.close()
    with_holes = open_disk(f"memdiff:file:{path};sector=4096", read_only=True)
    with pytest.raises(ReadOnly):
        put(with_holes, 0, noise(4096))
    with_holes.close()


def test_readers_may_share_a_base(tmp_path: Path) -> None:
    path = tmp_path / "base"
    FileDisk(str(path), create=1 << 20).close()
    disks = [open_disk(f"memdiff:{path}") for _ in range(3)]
    for number, disk in enumerate(disks):
        put(disk, 0, noise(512, number))
    assert [get(disk, 0, 1) for disk in disks] == [noise(512, number) for number in range(3)]
    for disk in disks:
        disk.close()


def test_random_writes_over_sixteen_tebibytes_hold_little_more_than_their_data() -> None:
    disk = open_disk("memdiff:mem:16T")
    rng = random.Random(2)
    written = {rng.randrange(disk.sector_count // 8) for _ in range(1000)}
    for block in written:
        put(disk, block * 8, noise(4096))
    assert disk.allocated_bytes == len(written) * 4096
    for block in list(written)[:50]:
        assert get(disk, block * 8, 8) == noise(4096)
        assert get(disk, block * 8, 16)[:4096] == noise(4096)
    disk.close()


class Elsewhere(RamLayer):
    """Where its sectors are is not in memory: `runs` knows nothing before `find_runs` is asked."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._known, self.runs = self.runs, lambda sector, count: []  # type: ignore[method-assign]

    async def find_runs(self, sector: int, count: int) -> list[Run]:
        return self._known(sector, count)


def test_a_layer_may_have_to_look_for_what_it_holds() -> None:
    base, top = RamDisk(16 * 512), Elsewhere(16 * 512)
    below = fill(base)
    disk = LayeredDisk.over(top, base)
    put(disk, 3, bytes(512))
    assert get(disk, 2, 3) == below[1024:1536] + bytes(512) + below[2048:2560]
    assert get(disk, 3, 1) == bytes(512)
    run(disk.unmap(2, 3))
    assert get(disk, 1, 5) == below[512:1024] + bytes(3 * 512) + below[2560:3072]
    assert sum(extent.count for extent in run(disk.extents(1, 9))) == 9


def test_a_layer_that_is_written_can_read_what_it_stands_on() -> None:
    class Curious(RamLayer):
        def stand_on(self, read_below: ReadBelow) -> None:
            self.read_below = read_below

    base, middle, top = RamDisk(16 * 512), Elsewhere(16 * 512), Curious(20 * 512)
    below = fill(base)
    put(middle, 3, bytes(512))
    put(top, 2, bytes(512))
    LayeredDisk.over(top, LayeredDisk.over(middle, base))
    data = view(18 * 512)
    run(top.read_below(2, [data]))
    assert data == below[1024:1536] + bytes(512) + below[2048:] + bytes(4 * 512)
