"""What a power cut may leave, against a model that knows each sector for itself."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import IllegalBlock, ReadOnly
from drivebay.lab.powercut import Choice, ImageDisk, examine, open_image, shrink
from drivebay.suspend import run
from drivebay.testing import PowerCutDisk, PuppetDisk
from drivebay.testing.history import Change, Image, Memory, Pieces
from tests.disk.support import Stepped, fill, get, noise, put, view

SECTOR = 512
SIZE = 6 * SECTOR

Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "fua", "zero", "unmap", "flush"]),
        st.integers(0, 5),
        st.integers(1, 3),
    ),
    max_size=8,
)


def do(disk: PowerCutDisk, steps: list[Step]) -> None:
    for seed, (name, sector, length) in enumerate(steps):
        count = min(length, 6 - sector)
        if name in ("write", "fua"):
            put(disk, sector, noise(count * SECTOR, seed), fua=name == "fua")
        elif name == "zero":
            run(disk.write_zeroes(sector, count))
        elif name == "unmap":
            run(disk.unmap(sector, count))
        else:
            run(disk.flush())


def modelled(steps: list[Step], start: bytes) -> set[bytes]:
    """All that may be left at any time: for each sector what is stable, and what came later."""
    stable = [start[at : at + SECTOR] for at in range(0, SIZE, SECTOR)]
    later: list[list[bytes]] = [[] for _ in stable]
    found: set[bytes] = set()

    def look() -> None:
        choices = [[old, *new] for old, new in zip(stable, later, strict=True)]
        found.update(b"".join(sectors) for sectors in itertools.product(*choices))

    for seed, (name, sector, length) in enumerate(steps):
        count = min(length, 6 - sector)
        if name == "flush":
            look()
            stable = [new[-1] if new else old for old, new in zip(stable, later, strict=True)]
            later = [[] for _ in stable]
            continue
        data = noise(count * SECTOR, seed) if name in ("write", "fua") else bytes(count * SECTOR)
        for number in range(count):
            later[sector + number].append(data[number * SECTOR : (number + 1) * SECTOR])
        if name == "fua":
            look()  # before it has ended
            for number in range(sector, sector + count):
                stable[number], later[number] = later[number][-1], []
    look()
    return found


def content(image: Image, base: RamDisk) -> bytes:
    return get(ImageDisk(image, base), 0, base.sector_count)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_all_that_there_are(steps: list[Step]) -> None:
    base = RamDisk(SIZE)
    start = fill(base)
    disk = PowerCutDisk(_copy(base))
    do(disk, steps)
    choice = Choice(disk.history, 1 << 18)
    found = [content(image, base) for image in choice]
    assert choice.complete
    assert set(found) == modelled(steps, start)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 3))
def test_those_that_are_drawn_are_some_of_them(steps: list[Step], seed: int) -> None:
    base = RamDisk(SIZE)
    start = fill(base)
    disk = PowerCutDisk(_copy(base))
    do(disk, steps)
    choice = Choice(disk.history, 9, seed)
    images = list(choice)
    assert len(images) <= 9
    assert {content(image, base) for image in images} <= modelled(steps, start)
    assert [str(image) for image in images] == [str(i) for i in Choice(disk.history, 9, seed)]
    states = {bytes(state.data) for state in disk.states(9, seed)}
    assert states <= modelled(steps, start)


def _copy(base: RamDisk) -> RamDisk:
    disk = RamDisk(base.byte_count)
    put(disk, 0, get(base, 0, base.sector_count))
    return disk


def written(count: int = 4, size: int = 2048) -> tuple[PowerCutDisk, RamDisk]:
    """Writes beside each other, that no flush has covered; and what was there before."""
    disk = PowerCutDisk(RamDisk(1 << 20))
    for number in range(count):
        put(disk, number * 8, bytes([number + 1]) * size)
    return disk, RamDisk(1 << 20)


def test_whole_writes_only() -> None:
    disk, base = written()
    choice = Choice(disk.history, 100, tear=False)
    assert len({content(image, base) for image in choice}) == 16
    assert choice.complete


def test_writes_are_torn_at_the_atom() -> None:
    disk = PowerCutDisk(RamDisk(4096, sector_size=4096))
    put(disk, 0, noise(4096))
    disk.history.atom = 2048
    base = RamDisk(4096, sector_size=4096)
    found = {content(image, base) for image in Choice(disk.history, 100)}
    low, high = noise(4096)[:2048], noise(4096)[2048:]
    assert found == {bytes(4096), low + bytes(2048), bytes(2048) + high, low + high}


def test_what_is_under_way_may_be_there_and_a_flush_covers_what_had_ended_when_it_began() -> None:
    puppet = PuppetDisk(RamDisk(SIZE), holds=lambda name, sector, count: name != "read")
    disk = PowerCutDisk(puppet)
    one = Stepped(disk.write(0, [view(512)]))
    puppet.held[0].complete()
    assert one.done
    flush = Stepped(disk.flush())
    two = Stepped(disk.write(1, [view(512)]))
    [held_flush, held_write] = puppet.held
    held_write.complete()
    assert two.done
    held_flush.complete()
    assert flush.done
    history = disk.history
    assert [[change.number for change in cut.changes] for cut in history.cuts()] == [[1, 2], [2]]


def test_the_same_moment_is_not_looked_at_twice() -> None:
    disk, _ = written(3, 512)
    run(disk.flush())
    run(disk.flush())
    put(disk, 100, bytes(512), fua=True)
    cuts = list(disk.history.cuts())
    assert [len(cut.changes) for cut in cuts] == [3, 1, 0]


def test_a_share_that_one_cut_leaves_over_is_for_the_others() -> None:
    disk = PowerCutDisk(RamDisk(1 << 20))
    put(disk, 0, bytes(512))
    run(disk.flush())
    for number in range(20):
        put(disk, 8 * number, noise(2048, number))
    images = list(Choice(disk.history, 50, tear=False))
    assert len(images) == 50


def test_each_moment_has_its_share() -> None:
    disk = PowerCutDisk(RamDisk(1 << 20))
    for number in range(40):
        put(disk, 16 * number, noise(8192, number))
        run(disk.flush())
    choice = Choice(disk.history, 20)
    moments = {image.cut.moment for image in choice}
    assert len(moments) >= 15
    assert not choice.complete


def test_only_when_it_is_said() -> None:
    disk, _ = written()
    moment = disk.history.changes[1].began
    choice = Choice(disk.history, 100, tear=False, moments=[moment])
    assert {image.cut.moment for image in choice} == {moment}
    assert {each.change.number for image in choice for each in image.kept} == {1, 2}
    assert not list(Choice(disk.history, 100, first=disk.moment + 1))


def test_a_name_finds_its_image() -> None:
    disk, base = written()
    for image in Choice(disk.history, 60, seed=4):
        assert content(disk.history.image(str(image)), base) == content(image, base)


@pytest.mark.parametrize("name", ["", "x:", "99:", "-1:", "8:9", "8:1@4", "8:1@9-8", "8:1@", "8:x"])
def test_a_name_of_no_image(name: str) -> None:
    disk, _ = written()
    with pytest.raises(ValueError, match=r"\S"):
        disk.history.image(name)


# -- as disks --------------------------------------------------------------------------------------


def test_an_image_is_read_over_the_disk_as_it_was_and_written_beside_it() -> None:
    base = RamDisk(SIZE)
    start = fill(base)
    disk = PowerCutDisk(_copy(base))
    put(disk, 1, noise(1024))
    image = disk.history.cut(disk.moment).image([])
    with_both = disk.history.image(f"{disk.moment}:1")
    assert content(image, base) == start
    over = open_image(with_both, base)
    assert get(over, 0, 6) == start[:512] + noise(1024) + start[1536:]
    put(over, 5, bytes(512))
    assert get(over, 5, 1) == bytes(512)
    over.close()
    assert get(base, 0, 6) == start
    reader = ImageDisk(with_both, base)
    with pytest.raises(IllegalBlock):
        run(reader.read(6, [view(512)]))
    assert reader.inner == (base,)


def test_the_extents_of_an_image() -> None:
    base = RamDisk(64 * SECTOR)
    put(base, 40, noise(8 * SECTOR))
    disk = PowerCutDisk(_copy(base))
    put(disk, 2, noise(2 * SECTOR))
    run(disk.write_zeroes(3, 4))
    cut = disk.history.cut(disk.moment)
    image = disk.history.image(f"{cut.moment}:1,2")
    found = run(ImageDisk(image, base).extents(0, 64))
    assert [(e.sector, e.count, e.zero) for e in found][:4] == [
        (0, 2, True),
        (2, 1, False),
        (3, 4, True),
        (7, 33, True),
    ]
    assert sum(e.count for e in found) == 64
    disk.history.atom = 100  # within a sector: what is there is not known to be zero
    torn = disk.history.image(f"{cut.moment}:2@1-2")
    found = run(ImageDisk(torn, base).extents(3, 3))
    assert [(e.sector, e.count, e.zero) for e in found] == [(3, 1, False), (4, 2, True)]


def test_an_image_is_only_read() -> None:
    disk, base = written()
    with pytest.raises((ReadOnly, NotImplementedError)):
        run(ImageDisk(next(iter(Choice(disk.history, 1))), base).write(0, [view(512)]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=12), st.randoms())
def test_later_changes_show_in_whatever_order_they_are_painted(
    spans: list[tuple[int, int]], chance: random.Random
) -> None:
    changes = [
        Change(number, number, start, length, Memory(bytes([number]) * length))
        for number, (start, length) in enumerate(spans, 1)
    ]
    expected = bytearray(64)
    for change in changes:
        expected[change.offset : change.offset + change.length] = bytes([change.number]) * (
            change.length
        )
    chance.shuffle(changes)
    pieces = Pieces()
    for change in changes:
        before = bytearray(64)
        pieces.fill(0, memoryview(before))
        shown = pieces.paint(change.offset, change.offset + change.length, change)
        after = bytearray(64)
        pieces.fill(0, memoryview(after))
        assert shown == (before != after)
    found = bytearray(64)
    pieces.fill(0, memoryview(found))
    assert found == expected


# -- looked at -------------------------------------------------------------------------------------


def numbers(image: Image) -> set[int]:
    return {each.change.number for each in image.kept}


def test_the_smallest_that_fails() -> None:
    """Two of forty writes, and of one of them two of its eight sectors."""
    disk, base = written(40, 4096)

    def wrong(image: Image) -> bool:
        seen = content(image, base)
        at = 16 * 8 * SECTOR
        return seen[7 * 8 * SECTOR] == 8 and seen[at] == seen[at + 3584] == 17

    everything = disk.history.image(f"{disk.moment}:{','.join(str(n) for n in range(1, 41))}")
    smallest = shrink(everything, wrong)
    assert str(smallest) == f"{disk.moment}:8@0,17@0+7"


def test_a_part_may_fail_where_the_whole_did_not() -> None:
    disk, _ = written(2, 1024)
    both = disk.history.image(f"{disk.moment}:1,2")
    names = {"1,2", "1@0,2", "1@0"}
    smallest = shrink(both, lambda image: str(image).partition(":")[2] in names)
    assert str(smallest) == f"{disk.moment}:1@0"


def test_the_tries_are_bounded() -> None:
    disk, _ = written(40, 512)
    everything = disk.history.image(f"{disk.moment}:{','.join(str(n) for n in range(1, 41))}")
    tried: list[str] = []

    def wrong(image: Image) -> bool:
        tried.append(str(image))
        return len(image.kept) > 30

    shrink(everything, wrong, tries=5)
    assert len(tried) == 5


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_are_looked_at_and_what_failed_is_told_in_order(jobs: int) -> None:
    disk, _ = written(6)
    run(disk.flush())
    put(disk, 3, noise(1024))
    bases: list[RamDisk] = []
    told: list[tuple[int, int]] = []

    def opened() -> RamDisk:
        bases.append(RamDisk(1 << 20))
        return bases[-1]

    report = examine(
        Choice(disk.history, 1000, tear=False),
        opened,
        lambda image, base: "both" if {1, 4} <= numbers(image) else None,
        jobs=jobs,
        progress=lambda images, failed: told.append((images, failed)),
    )
    assert (report.images, report.cuts) == (65, 2)
    assert len(report.findings) == 16
    assert report.smallest is not None
    assert numbers(report.smallest.image) == {1, 4}
    assert report.smallest.said == "both"
    assert told[-1] == (65, 16)
    assert 1 <= len(bases) <= jobs


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    disk, _ = written()
    report = examine(Choice(disk.history, 10), lambda: RamDisk(1 << 20), lambda image, base: None)
    assert (report.images, report.findings, report.smallest, report.tries) == (10, [], None, 0)


def test_a_check_that_cannot_be_made_ends_it() -> None:
    disk, _ = written()

    def check(image: Image, base: object) -> str | None:
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        examine(Choice(disk.history, 100), lambda: RamDisk(1 << 20), check, jobs=2)
