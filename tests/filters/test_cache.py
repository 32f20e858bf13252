"""QEMU's cache modes over any disk: what the guest is told, and what is done."""

from __future__ import annotations

import pytest

from drivebay.disk.backends.file import CACHE_MODES
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.filters.cache import Cache
from drivebay.disk.spec import SpecError, open_disk
from drivebay.suspend import run
from drivebay.testing import Call, RecordingDisk
from tests.disk.support import put


def opened(mode: str, volatile: bool = True) -> tuple[Cache, RecordingDisk]:
    below = RecordingDisk(RamDisk(1 << 20))
    below.volatile_cache = volatile
    return Cache(below, mode), below


@pytest.mark.parametrize(
    ("mode", "told", "stable"),
    [
        ("writeback", True, False),
        ("none", True, False),
        ("writethrough", False, True),
        ("directsync", False, True),
        ("unsafe", True, False),
    ],
)
def test_what_a_guest_is_told_and_when_a_write_is_stable(
    mode: str, told: bool, stable: bool
) -> None:
    disk, below = opened(mode)
    assert disk.volatile_cache == told
    put(disk, 0, bytes(512))
    run(disk.write_zeroes(1, 1))
    run(disk.unmap(2, 1))
    expected = [
        Call("write", 0, 1, bytes(512), fua=stable),
        Call("write_zeroes", 1, 1, fua=stable),
        Call("unmap", 2, 1),
    ]
    assert below.calls == [*expected, Call("flush")] if stable else expected
    assert len(below.calls) == 3 + stable


@pytest.mark.parametrize("mode", CACHE_MODES)
def test_a_flush_and_fua_are_done_but_in_unsafe_mode(mode: str) -> None:
    disk, below = opened(mode)
    put(disk, 0, bytes(512), fua=True)
    run(disk.write_zeroes(0, 1, fua=True))
    run(disk.flush())
    safe = mode != "unsafe"
    assert [call.fua for call in below.calls if call.name != "flush"] == [safe, safe]
    assert ("flush" in [call.name for call in below.calls]) == safe


def test_a_disk_without_a_volatile_cache_gets_none_by_writeback() -> None:
    assert not opened("writeback", volatile=False)[0].volatile_cache
    assert opened("unsafe", volatile=False)[0].volatile_cache


def test_the_modes_that_change_nothing_cost_nothing() -> None:
    for mode in ("writeback", "none"):
        disk, below = opened(mode)
        assert (disk.read, disk.write, disk.flush) == (below.read, below.write, below.flush)


def test_the_grammar() -> None:
    disk = open_disk("cache:unsafe:cache:writethrough:mem:1M")
    assert disk.details == {"mode": "unsafe"}
    assert disk.volatile_cache
    disk.close()
    with pytest.raises(SpecError, match="one of writeback, none, writethrough, directsync, unsafe"):
        open_disk("cache:fast:mem:1M")
    with pytest.raises(SpecError, match="':' and a disk"):
        open_disk("cache:unsafe")
