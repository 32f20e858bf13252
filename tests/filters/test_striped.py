"""RAID-0: where each sector lies, and what becomes of whole-disk operations (openvmm.md 6.1)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import MOST_EXTENTS, Disk, Extent, Unmap
from drivebay.disk.errors import DiskOpenError, IllegalBlock, InvalidInput
from drivebay.disk.filters.cache import Cache
from drivebay.disk.filters.crypt import Crypt
from drivebay.disk.filters.striped import CHUNK, Striped
from drivebay.disk.spec import SpecError, open_disk
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk
from tests.disk.support import Stepped, fill, get, noise, put, view


def striped(disks: int, chunk: int, size: int = 1 << 20) -> tuple[Striped, list[RamDisk]]:
    below = [RamDisk(size) for _ in range(disks)]
    return Striped(below, chunk), below


@pytest.mark.parametrize(
    ("disks", "chunk"), [(2, 4096), (4, 128 << 10), (32, 64 << 10), (3, 512), (1, 1024)]
)
def test_chunk_i_lies_on_disk_i_mod_n(disks: int, chunk: int) -> None:
    disk, below = striped(disks, chunk, max(4 * chunk, 8192))
    data = fill(disk)
    for i in range(len(data) // chunk):
        where = get(below[i % disks], i // disks * chunk // 512, chunk // 512)
        assert where == data[i * chunk : (i + 1) * chunk]


@pytest.mark.parametrize("disks", [2, 4, 32])
def test_any_offset_and_length_of_odd_buffers(disks: int) -> None:
    disk, _ = striped(disks, 4096, 64 << 10)
    model = bytearray(fill(disk))
    dice = random.Random(disks)
    for seed in range(100):
        sector = dice.randrange(disk.sector_count)
        count = dice.randrange(min(200, disk.sector_count - sector) + 1)
        data = memoryview(noise(count * 512, seed))
        at = sorted(dice.randrange(len(data) + 1) for _ in range(3))
        run(disk.write(sector, [data[: at[0]], data[at[0] : at[1]], data[at[1] :]]))
        model[sector * 512 : (sector + count) * 512] = data
        assert get(disk, sector, count) == data
    assert get(disk, 0, disk.sector_count) == model


def test_each_disk_gets_one_operation_and_all_run_side_by_side() -> None:
    puppets = [PuppetDisk(RecordingDisk(RamDisk(1 << 20))) for _ in range(3)]
    disk = Striped(puppets, 4096)
    write = Stepped(disk.write(4, [view(10 * 4096)]))
    held = [[(op.sector, op.count) for op in puppet.held] for puppet in puppets]
    assert held == [[(4, 28)], [(0, 28)], [(0, 24)]]
    for puppet in puppets:
        assert not write.done
        puppet.complete_all()
        while write.calls:
            write.work()
    assert write.done


def test_what_lies_in_one_chunk_is_one_disks_own_operation() -> None:
    below = [RecordingDisk(RamDisk(1 << 20)) for _ in range(2)]
    disk = Striped(below, 4096)
    put(disk, 9, bytes(7 * 512), fua=True)
    assert [len(one.calls) for one in below] == [0, 1]
    assert (below[1].calls[0].sector, below[1].calls[0].fua) == (1, True)


@pytest.mark.parametrize(
    ("sector", "count", "expected"),
    [
        (1, 6, [(1, 6), None, None]),  # within a chunk
        (6, 4, [(6, 2), (0, 2), None]),  # across two
        (0, 24, [(0, 8), (0, 8), (0, 8)]),  # a row
        (4, 56, [(4, 20), (0, 20), (0, 16)]),  # rows, and parts of them
        (40, 16, [(16, 8), None, (8, 8)]),
        (0, 0, [None, None, None]),
    ],
)
@pytest.mark.parametrize("name", ["unmap", "write_zeroes"])
def test_unmaps_are_one_range_on_each_disk(
    name: str, sector: int, count: int, expected: list[tuple[int, int] | None]
) -> None:
    below = [RecordingDisk(RamDisk(1 << 20)) for _ in range(3)]
    run(getattr(Striped(below, 4096), name)(sector, count))
    calls = [[(call.sector, call.count) for call in one.calls] for one in below]
    assert calls == [[one] if one else [] for one in expected]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 95), st.integers(0, 96), st.integers(1, 4))
def test_an_unmapped_range_is_zero_and_no_other(sector: int, length: int, disks: int) -> None:
    disk, _ = striped(disks, 2048, 64 << 10)
    model = bytearray(fill(disk))
    count = min(length, disk.sector_count - sector)
    run(disk.unmap(sector, count))
    model[sector * 512 : (sector + count) * 512] = bytes(count * 512)
    assert get(disk, 0, disk.sector_count) == model


def test_a_flush_flushes_every_disk() -> None:
    below = [RecordingDisk(RamDisk(1 << 20)) for _ in range(3)]
    run(Striped(below).flush())
    assert [[call.name for call in one.calls] for one in below] == [["flush"]] * 3


@pytest.mark.parametrize(
    ("disks", "chunk", "message"),
    [
        ([], CHUNK, "no disks"),
        ([RamDisk(1 << 20), RamDisk(1 << 21)], CHUNK, "different sizes"),
        ([RamDisk(1 << 20), RamDisk(1 << 20, sector_size=4096)], CHUNK, "different sectors"),
        ([RamDisk(1 << 20), RamDisk(1 << 20, read_only=True)], CHUNK, "different rights"),
        ([RamDisk(1 << 20)], 0, "chunks of 0 bytes"),
        ([RamDisk(1 << 20)], -512, "chunks of -512 bytes"),
        ([RamDisk(1 << 20)], 1000, "chunks of 1000 bytes"),
        ([RamDisk(1 << 20)], 1 << 21, "smaller than a chunk"),
    ],
)
def test_what_makes_no_stripe(disks: list[Disk], chunk: int, message: str) -> None:
    with pytest.raises(DiskOpenError, match=message) as caught:
        Striped(disks, chunk)
    assert caught.value.hint


def test_whole_chunks_are_used() -> None:
    below = [RamDisk(10 * 512) for _ in range(2)]
    disk = Striped(below, 4 * 512)
    assert disk.sector_count == 16
    with pytest.raises(IllegalBlock):
        put(disk, 15, bytes(1024))
    with pytest.raises(IllegalBlock):
        run(disk.unmap((1 << 64) - 1, 1))
    assert not any(get(below[1], 0, 10))


def test_the_worst_of_the_disks_is_shown() -> None:
    first = RamDisk(1 << 20)
    disk = Striped([Cache(first, "unsafe"), Crypt(RamDisk(1 << 20), bytes(range(64)))])
    assert (disk.volatile_cache, disk.unmap_behaviour) == (True, Unmap.UNSPECIFIED)
    assert disk.disk_id is None
    assert not disk.persistent


def test_a_resize_gives_each_disk_its_part_and_is_told_once() -> None:
    disk, below = striped(4, 4096)
    fill(disk)
    heard: list[int] = []
    disk.on_resize(heard.append)
    row = 4 * 8
    for refused in (0, row - 1, row + 8):
        with pytest.raises(InvalidInput):
            run(disk.resize(refused))
    assert heard == []
    run(disk.resize(10 * row))
    assert [one.sector_count for one in below] == [80] * 4
    run(disk.resize(20 * row))
    assert heard == [10 * row, 20 * row]
    assert not any(get(disk, 10 * row, 10 * row))


def test_a_disk_resized_behind_our_back() -> None:
    disk, below = striped(2, 4096)
    heard: list[int] = []
    disk.on_resize(heard.append)
    run(below[0].resize(80))
    assert (disk.sector_count, heard) == (160, [160])
    run(below[1].resize(80))
    assert heard == [160]
    disk.close()


def test_extents_are_those_of_the_chunks() -> None:
    disk, _ = striped(2, 4096, 64 << 10)
    put(disk, 8, bytes(range(256)) * 32)  # chunks 1 and 2
    run(disk.flush())
    found = run(disk.extents(0, disk.sector_count))
    assert found[:2] == [Extent(0, 8, False, True), Extent(8, 16, True, False)]
    assert [one.sector + one.count for one in found[:-1]] == [one.sector for one in found[1:]]
    huge = Striped([RamDisk(1 << 40), RamDisk(1 << 40)], 4096)
    answer = run(huge.extents(5, huge.sector_count - 5))
    assert answer == [Extent(5, MOST_EXTENTS * 8 - 5, False, True)]


def test_the_grammar_nests() -> None:
    disk = open_disk("striped:64k[cache:unsafe:mem:1M][striped:512[mem:512k][mem:512k;sector=512]]")
    assert disk.details == {"chunk": 64 << 10}
    assert [one.kind for one in disk.inner] == ["cache", "striped"]
    assert disk.byte_count == 2 << 20
    disk.close()
    disk = open_disk("delay:0:striped:[mem:1M][mem:1M]")
    assert disk.inner[0].details == {"chunk": 128 << 10}
    disk.close()


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        ("striped:", 8, "'[' and a disk"),
        ("striped:0[mem:1M]", 8, "a size of a chunk"),
        ("striped:[mem:1M", 15, "']' after the disk"),
        ("striped:[mem:1M]]", 16, "the end of the disk"),
        ("striped:[mem:1M,ro]", 15, "the end of the disk"),
        ("striped:[]", 9, "a disk such as mem:64M or a path"),
        ("striped:[mem:1M;foo]", 16, "one of sector"),
    ],
)
def test_a_bad_spec_says_where(text: str, position: int, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        open_disk(text)
    assert (caught.value.position, caught.value.expected) == (position, expected)


def test_disks_that_do_not_fit_are_closed() -> None:
    with pytest.raises(DiskOpenError, match="different sizes"):
        open_disk("striped:[mem:1M][mem:2M]")
