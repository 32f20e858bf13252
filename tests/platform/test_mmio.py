"""The space of register blocks, and interrupt lines."""

from __future__ import annotations

import pytest

from drivebay.platform.interrupts import Line
from drivebay.platform.mmio import MmioSpace


class Block:
    """Registers that remember; reads give the offset."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.writes: list[tuple[int, int, int]] = []

    def mmio_read(self, offset: int, width: int) -> int:
        return offset

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        self.writes.append((offset, width, value))


def test_an_access_goes_to_the_block_it_lies_in() -> None:
    space, low, high = MmioSpace(), Block(0x100), Block(0x200)
    space.map(0x2000, high)
    space.map(0x1F00, low)
    assert space.read(0x1F10, 4) == 0x10
    assert space.read(0x2010, 4) == 0x10
    space.write(0x21FC, 4, 5)
    assert high.writes == [(0x1FC, 4, 5)]
    assert not low.writes


@pytest.mark.parametrize("address", [0, 0xFFF, 0x1100, 0x10FD, 0xFFE, 1 << 63, (1 << 64) - 1, -4])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_what_no_block_claims_whole_reads_all_ones(address: int, width: int) -> None:
    space, block = MmioSpace(), Block(0x100)
    space.map(0x1000, block)
    if not 0x1000 <= address <= 0x1100 - width:
        assert space.read(address, width) == (1 << 8 * width) - 1
        space.write(address, width, 0)
    assert not block.writes


@pytest.mark.parametrize("base", [0x1000, 0xF01, 0x10FF, 0x0FF0, 0xF00, 0x1100])
def test_where_blocks_overlap_the_first_answers(base: int) -> None:
    space, first, second = MmioSpace(), Block(0x100), Block(0x200)
    end_first, end_second = space.map(0x1000, first), space.map(base, second)
    for address in range(0xF00, 0x1300):
        if 0x1000 <= address < 0x1100:
            assert space.read(address, 1) == address - 0x1000
        elif base <= address < base + 0x200:
            assert space.read(address, 1) == address - base
        else:
            assert space.read(address, 1) == 0xFF
    end_first()
    assert space.read(base + 0x1FF, 1) == 0x1FF
    assert space.read(base, 4) == 0
    end_second()
    end_second()
    assert space.read(base, 4) == 0xFFFFFFFF


def test_a_line_tells_of_changes_only() -> None:
    levels: list[bool] = []
    line = Line(levels.append)
    for level in (False, True, True, False, False, True):
        line.set(level)
    assert levels == [True, False, True]
    assert line.level
