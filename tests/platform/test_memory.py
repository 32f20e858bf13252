"""Guest memory: regions, holes, edges."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.platform.memory import GuestMemory, GuestMemoryFault, Region

PAGE = 4096


def ram(start: int, size: int, fill: int = 0) -> Region:
    return Region(start, memoryview(bytearray([fill]) * size))


@pytest.fixture
def memory() -> GuestMemory:
    """Two regions that adjoin, a hole of a page, and a third."""
    return GuestMemory([ram(0, PAGE, 1), ram(PAGE, PAGE, 2), ram(3 * PAGE, PAGE, 3)])


@pytest.mark.parametrize(
    "address, length, first",
    [(0, PAGE, 1), (PAGE - 1, 1, 1), (PAGE, 1, 2), (3 * PAGE, PAGE, 3), (4 * PAGE - 1, 1, 3)],
)
def test_a_view_is_the_real_thing(
    memory: GuestMemory, address: int, length: int, first: int
) -> None:
    view = memory.view(address, length)
    assert (len(view), view[0]) == (length, first)
    view[0] = 99
    assert memory.view(address, 1)[0] == 99


@pytest.mark.parametrize(
    "address, length",
    [
        (PAGE - 1, 2),  # two regions are two views
        (2 * PAGE, 1),
        (2 * PAGE - 1, 2),
        (3 * PAGE - 1, 2),
        (4 * PAGE - 1, 2),
        (4 * PAGE, 1),
        (-1, 1),
        (-1, 2),
        ((1 << 64) - 1, 1),
        ((1 << 64) - 1, 2),
        (1 << 64, 1),
        (0, 1 << 64),
    ],
)
@pytest.mark.parametrize("warm", [False, True], ids=["", "after a hit beside it"])
def test_what_is_not_in_one_region_is_a_fault(
    memory: GuestMemory, address: int, length: int, warm: bool
) -> None:
    if warm:
        for beside in (0, PAGE, 3 * PAGE):
            memory.view(beside, 1)
            with pytest.raises(GuestMemoryFault):
                memory.view(address, length)
    with pytest.raises(GuestMemoryFault):
        memory.view(address, length)


def test_views_cross_from_region_to_region(memory: GuestMemory) -> None:
    pieces = memory.views(PAGE - 2, 4)
    assert [bytes(piece) for piece in pieces] == [b"\1\1", b"\2\2"]
    assert memory.views(2 * PAGE, 0) == []
    with pytest.raises(GuestMemoryFault):
        memory.views(PAGE, PAGE + 1)


@given(address=st.integers(-PAGE, 5 * PAGE), length=st.integers(0, 4 * PAGE))
def test_views_are_the_bytes_or_a_fault(address: int, length: int) -> None:
    memory = GuestMemory([ram(0, PAGE, 1), ram(PAGE, PAGE, 2), ram(3 * PAGE, PAGE, 3)])
    model = {n: 1 + n // PAGE for n in range(2 * PAGE)} | dict.fromkeys(
        range(3 * PAGE, 4 * PAGE), 3
    )
    expected = [model.get(n) for n in range(address, address + length)]
    try:
        got = b"".join(bytes(piece) for piece in memory.views(address, length))
    except GuestMemoryFault:
        assert None in expected
    else:
        assert list(got) == expected


def test_the_window_is_the_region_hit_last(memory: GuestMemory) -> None:
    assert memory.window[1] == 0
    memory.view(PAGE, 1)
    assert memory.window[:2] == (PAGE, PAGE)
    memory.replace([ram(0, PAGE)])
    assert memory.window[1] == 0
    with pytest.raises(GuestMemoryFault):
        memory.view(PAGE, 1)


@pytest.mark.parametrize(
    "regions",
    [
        [(0, PAGE), (PAGE - 1, PAGE)],
        [(0, PAGE), (0, PAGE)],
        [(0, 0)],
        [((1 << 64) - 1, 2)],
        [(-1, 2)],
    ],
)
def test_regions_that_cannot_be_are_refused(
    memory: GuestMemory, regions: list[tuple[int, int]]
) -> None:
    before = memory.regions
    with pytest.raises(ValueError):
        memory.replace([ram(start, size) for start, size in regions])
    assert memory.regions == before


def test_the_last_byte_of_the_address_space_can_be_ram() -> None:
    memory = GuestMemory([ram((1 << 64) - PAGE, PAGE, 7)])
    assert memory.view((1 << 64) - 1, 1)[0] == 7
    with pytest.raises(GuestMemoryFault):
        memory.view((1 << 64) - 1, 2)


def test_no_memory_at_all() -> None:
    with pytest.raises(GuestMemoryFault):
        GuestMemory().view(0, 1)


def test_fresh_memory_is_zero() -> None:
    assert bytes(GuestMemory.of_size(PAGE, 0x1000).view(0x1000, PAGE)) == bytes(PAGE)
