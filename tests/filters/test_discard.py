"""What an unmap does, by the words of `discard:`."""

from __future__ import annotations

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Unmap
from drivebay.disk.errors import IllegalBlock, ReadOnly
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.discard import Discard
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import get, put

SECTOR = 512


@pytest.mark.parametrize(
    ("behaviour", "count", "zero"),
    [
        ("zeroes", 7, 7),
        ("zeroes", 0, 0),
        ("unspecified", 7, 3),
        ("unspecified", 1, 0),
        ("ignored", 7, 0),
    ],
)
def test_what_is_there_afterwards(behaviour: str, count: int, zero: int) -> None:
    disk = open_disk(f"discard:{behaviour}:mem:1M")
    assert disk.unmap_behaviour is Unmap(behaviour)
    put(disk, 0, b"x" * 16 * SECTOR)
    run(disk.unmap(4, count))
    kept = b"x" * (12 - zero) * SECTOR
    assert get(disk, 0, 16) == b"x" * 4 * SECTOR + bytes(zero * SECTOR) + kept
    disk.close()


@pytest.mark.parametrize("behaviour", Unmap)
def test_what_it_refuses(behaviour: Unmap) -> None:
    with pytest.raises(IllegalBlock):
        run(Discard(RamDisk(1 << 20), behaviour).unmap(2047, 2))
    below = Filter(RamDisk(1 << 20))
    below.read_only = True
    with pytest.raises(ReadOnly):
        run(Discard(below, behaviour).unmap(0, 1))
