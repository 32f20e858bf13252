"""File and RAM disks: cache modes, operations, resizes, sparseness."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends import fd as fd_module
from drivebay.disk.backends import file as file_module
from drivebay.disk.backends.file import CACHE_MODES, FileDisk
from drivebay.disk.backends.linux import file_system
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Unmap
from drivebay.disk.errors import DiskOpenError, IllegalBlock, InvalidInput
from drivebay.suspend import DONE, run
from tests.disk.support import Stepped, fill, get, noise, put, view

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "image")


# -- cache modes (hostile section 3) -------------------------------------------------------------


class Syncs:
    """Counts what makes data stable."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.flushes = self.stable_writes = self.writes = 0
        fdatasync, pwritev = os.fdatasync, os.pwritev

        def count_sync(fd: int) -> None:
            self.flushes += 1
            fdatasync(fd)

        def count_write(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            self.writes += 1
            self.stable_writes += bool(flags & os.RWF_DSYNC)
            return pwritev(fd, buffers, offset, flags)

        patch.setattr(os, "fdatasync", count_sync)
        patch.setattr(os, "pwritev", count_write)


@pytest.mark.parametrize(
    ("cache", "wce", "direct", "write_stable", "fua_stable", "flushes"),
    [
        ("writeback", True, False, False, True, True),
        ("none", True, True, False, True, True),
        ("writethrough", False, False, True, True, False),
        ("directsync", False, True, True, True, False),
        ("unsafe", True, False, False, False, False),
    ],
)
def test_cache_mode_does_what_the_table_says(
    path: str,
    monkeypatch: pytest.MonkeyPatch,
    cache: str,
    wce: bool,
    direct: bool,
    write_stable: bool,
    fua_stable: bool,
    flushes: bool,
) -> None:
    disk = FileDisk(path, cache=cache, create=MIB, sector_size=4096)
    assert disk.volatile_cache is wce
    assert bool(fcntl.fcntl(disk._fd, fcntl.F_GETFL) & os.O_DIRECT) is direct
    assert disk.details == {"path": path, "cache": cache}
    put(disk, 0, noise(4096))  # a first write may find out what the file system can
    counted = Syncs(monkeypatch)
    put(disk, 1, noise(4096))
    assert bool(counted.stable_writes) is write_stable
    counted.stable_writes = 0
    put(disk, 1, noise(4096), fua=True)
    assert bool(counted.stable_writes) is fua_stable
    counted.flushes = 0
    run(disk.flush())
    assert bool(counted.flushes) is flushes
    counted.flushes = 0
    run(disk.write_zeroes(1, 1))
    run(disk.unmap(2, 1))
    assert bool(counted.flushes) is write_stable
    counted.flushes = 0
    run(disk.write_zeroes(1, 1, fua=True))
    assert bool(counted.flushes) is fua_stable
    disk.close()


def test_every_cache_mode_is_in_the_table_above() -> None:
    assert list(CACHE_MODES) == ["writeback", "none", "writethrough", "directsync", "unsafe"]


@pytest.mark.parametrize("cache", ["none", "directsync"])
def test_direct_io_takes_buffers_that_are_not_aligned(path: str, cache: str) -> None:
    try:
        disk = FileDisk(path, cache=cache, create=4 * MIB, sector_size=512)
    except DiskOpenError as error:
        pytest.skip(str(error))
    data = noise(5 * MIB // 2)
    odd = view(len(data) + 1)[1:]
    odd[:] = data
    run(disk.write(7, [odd[:100], odd[100:]]))
    assert Path(path).read_bytes()[7 * 512 :][: len(data)] == data
    odd[:] = bytes(len(data))
    run(disk.read(7, [odd[:1000], odd[1000:]]))
    assert odd == data
    disk.close()


# -- operations ----------------------------------------------------------------------------------


def test_more_buffers_than_one_system_call_takes(path: str) -> None:
    disk = FileDisk(path, create=8 * MIB)
    data = noise(3000 * 512)
    whole = memoryview(bytearray(data))
    parts = [whole[at : at + 512] for at in range(0, len(whole), 512)]
    run(disk.write(9, parts))
    whole[:] = bytes(len(whole))
    run(disk.read(9, parts))
    assert whole == data
    assert disk._inline_reads
    disk.close()


def test_a_sector_far_beyond_never_aliases_one_on_the_disk(path: str) -> None:
    """openvmm.md 5.1, sector_does_not_wrap_when_shifted."""
    disk = FileDisk(path, create=MIB)
    for sector in (1 << 55, 1 << 54, 1 << 64, (1 << 64) - 1, -1):
        with pytest.raises(IllegalBlock):
            put(disk, sector, noise(512))
    assert Path(path).read_bytes() == bytes(MIB)
    disk.close()


def test_unmap_and_zeroes_free_the_space(path: str) -> None:
    disk = FileDisk(path, create=MIB)
    if disk.unmap_behaviour is not Unmap.ZEROES:
        pytest.skip("this file system cannot punch holes")
    for empty in (disk.unmap(0, 2048), disk.write_zeroes(0, 2048, unmap=True)):
        fill(disk)
        assert (disk.allocated_bytes or 0) >= MIB
        run(empty)
        assert disk.allocated_bytes == 0
    disk.close()


def test_write_zeroes_keeps_the_space_unless_it_may_unmap(path: str) -> None:
    disk = FileDisk(path, create=MIB)
    if disk._memory:
        pytest.skip("in memory there is no space to keep")
    fill(disk)
    run(disk.write_zeroes(0, 2048))
    assert (disk.allocated_bytes or 0) >= MIB
    assert get(disk, 0, 2048) == bytes(MIB)
    disk.close()


@pytest.mark.parametrize("cache", ["writeback", "none"])
def test_without_fallocate_unmap_does_nothing_and_zeroes_are_written(
    path: str, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(fd: int, mode: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(fd_module, "fallocate", unsupported)
    monkeypatch.setattr(file_module, "fallocate", unsupported)
    disk = FileDisk(path, cache=cache, create=18 * MIB, sector_size=4096)
    assert disk.unmap_behaviour is Unmap.IGNORED
    data = fill(disk)
    run(disk.unmap(0, 100))
    assert get(disk, 0, 100) == data[: 100 * 4096]
    run(disk.write_zeroes(1, 4500))
    assert get(disk, 1, 4500) == bytes(4500 * 4096)
    assert get(disk, 0, 1) == data[:4096]
    assert get(disk, 4501, 1) == data[4501 * 4096 :][:4096]
    disk.close()


def test_a_slow_write_sends_the_next_ones_to_workers_for_a_while(path: str) -> None:
    disk = FileDisk(path, create=MIB)
    buffers = [view(512)]
    put(disk, 0, bytes(512))
    with pytest.MonkeyPatch.context() as patch:
        disk._memory = False
        clock = [10.0]
        patch.setattr(fd_module, "perf_counter", lambda: clock[0])
        disk._write_pause = 11.0
        stepped = Stepped(disk.write(0, buffers))
        assert not stepped.done
        stepped.work()
        clock[0] = 12.0
        assert Stepped(disk.write(0, buffers)).done

        def stall(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            clock[0] += 1.0
            return 512

        patch.setattr(os, "pwritev", stall)
        assert Stepped(disk.write(0, buffers)).done
        patch.setattr(fd_module, "perf_counter", lambda: 12.0)
        stepped = Stepped(disk.write(0, buffers))
        assert not stepped.done
        stepped.work()
    disk.close()


def test_a_resize_waits_for_writes_on_workers_and_cuts_them_off(path: str) -> None:
    disk = FileDisk(path, cache="writethrough", create=MIB)
    heard: list[int] = []
    disk.on_resize(heard.append)
    write = Stepped(disk.write(2000, [memoryview(noise(512))]))
    resize = Stepped(disk.resize(100))
    with pytest.raises(IllegalBlock):
        put(disk, 2000, noise(512))
    with pytest.raises(InvalidInput):
        run(disk.resize(300))
    assert not resize.calls
    write.work()
    resize.work()
    assert write.done
    assert resize.done
    assert os.path.getsize(path) == 100 * 512
    assert heard == [100]
    disk.close()


def test_a_resize_to_no_size_is_refused(path: str) -> None:
    disk = FileDisk(path, create=MIB)
    for count in (0, -1, 1 << 54, 1 << 64):
        with pytest.raises(InvalidInput):
            run(disk.resize(count))
    assert disk.sector_count == 2048
    disk.close()


# -- the RAM disk --------------------------------------------------------------------------------


def test_a_ram_disk_holds_one_byte_for_each_byte_written() -> None:
    disk = RamDisk(1 << 44, sector_size=4096)
    rng = random.Random(1)
    written = {rng.randrange(disk.sector_count) for _ in range(2000)}
    for sector in written:
        put(disk, sector, noise(4096))
    assert disk.allocated_bytes == len(written) * 4096
    assert get(disk, 12345, 1000) == bytes(1000 * 4096) or 12345 in written
    assert disk.allocated_bytes == len(written) * 4096, "reading a hole took memory"
    run(disk.write_zeroes(0, disk.sector_count))
    assert disk.allocated_bytes == 0
    assert not disk.volatile_cache
    disk.close()


def test_the_file_system_of_a_file_is_known(tmp_path: Path) -> None:
    with open("/proc/self/stat", "rb") as opened:
        assert file_system(opened.fileno()) == "proc"


# -- what is done at once -------------------------------------------------------------------------


def test_what_cannot_wait_is_done_by_the_call() -> None:
    disk = RamDisk(MIB)
    data, back = noise(4096), bytearray(4096)
    assert disk.write(8, [memoryview(bytearray(data))]) is DONE
    assert disk.read(8, [memoryview(back)]) is DONE
    assert bytes(back) == data
    disk.close()


@pytest.mark.parametrize("sector", [-1, 2047, 2048, 1 << 70])
def test_what_goes_wrong_is_raised_when_it_is_awaited(sector: int) -> None:
    disk = RamDisk(MIB)
    for operation in (disk.read(sector, [view(1024)]), disk.write(sector, [view(1024)])):
        with pytest.raises(IllegalBlock):
            run(operation)
    disk.close()
