"""Hostile 4.8: every system call a file disk makes fails once, in every way; nothing is silent."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends import fd as fd_module
from drivebay.disk.backends.file import FileDisk
from drivebay.disk.errors import DiskError, IoError, Medium, MediumError, MemoryAccess, NoSpace
from drivebay.suspend import run
from tests.disk.support import Stepped, fill, get, noise, put, view

SECTOR = 4096
SECTORS = 32
DATA = noise(8 * SECTOR, 7)

ERRORS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINVAL, errno.EAGAIN, errno.EFAULT)
FAULTS = [*(errno.errorcode[number] for number in ERRORS), "short", "none"]
CALLS = ("preadv", "pwritev", "fdatasync", "ftruncate", "fallocate")


class Fault:
    """Stands in for the calls of `CALLS` and lets the `at`-th call of `name` fail."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, fault: str, at: int) -> None:
        self.name, self.fault, self.at = name, fault, at
        self.met = 0
        for call in CALLS:
            module = fd_module if call == "fallocate" else os
            patch.setattr(module, call, self.wrap(call, getattr(module, call)))

    def wrap(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(fd: int, *arguments: Any) -> Any:
            if name == self.name:
                self.met += 1
                if self.met == self.at:
                    return self.strike(call, fd, *arguments)
            return call(fd, *arguments)

        return wrapped

    def strike(self, call: Callable[..., Any], fd: int, *arguments: Any) -> Any:
        if self.fault not in ("short", "none"):
            number = getattr(errno, self.fault)
            raise OSError(number, os.strerror(number))
        if self.name not in ("preadv", "pwritev"):
            return call(fd, *arguments)
        if self.fault == "none":
            return 0
        return call(fd, [arguments[0][0][:SECTOR]], *arguments[1:])


def read(disk: FileDisk) -> bytes:
    return get(disk, 4, 8)


def write(disk: FileDisk) -> bytes:
    put(disk, 4, DATA)
    return DATA


def write_fua(disk: FileDisk) -> bytes:
    put(disk, 4, DATA, fua=True)
    return DATA


def flush(disk: FileDisk) -> bytes:
    put(disk, 4, DATA)
    run(disk.flush())
    return DATA


def unmap(disk: FileDisk) -> bytes:
    run(disk.unmap(4, 8))
    return bytes(8 * SECTOR)


def write_zeroes(disk: FileDisk) -> bytes:
    run(disk.write_zeroes(4, 8, fua=True))
    return bytes(8 * SECTOR)


def resize(disk: FileDisk) -> bytes:
    run(disk.resize(8))
    run(disk.resize(SECTORS))
    return get(disk, 4, 4) + bytes(4 * SECTOR)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cache", ["writeback", "none", "writethrough"])
@pytest.mark.parametrize(
    "operation",
    [read, write, write_fua, flush, unmap, write_zeroes, resize],
    ids=lambda o: o.__name__,
)
def test_a_fault_is_an_error_or_has_no_effect(
    operation: Callable[[FileDisk], bytes], cache: str, fault: str, tmp_path: Path
) -> None:
    for name in CALLS:
        at = 1
        while _strike(operation, cache, fault, name, at, tmp_path / f"{name}-{at}"):
            at += 1
        assert at < 9


def _strike(
    operation: Callable[[FileDisk], bytes], cache: str, fault: str, name: str, at: int, path: Path
) -> bool:
    """Whether the operation came as far as the fault."""
    disk = FileDisk(str(path), cache=cache, create=SECTOR * SECTORS, sector_size=SECTOR)
    before = fill(disk)
    with pytest.MonkeyPatch.context() as patch:
        injected = Fault(patch, name, fault, at)
        try:
            expected = operation(disk)
        except DiskError:
            assert injected.met >= at
        else:
            size = slice(4 * SECTOR, 12 * SECTOR)
            patch.undo()
            assert get(disk, 4, 8) == path.read_bytes()[size] == expected
    outside = slice(12 * SECTOR, None) if operation is not resize else slice(0, 0)
    assert path.read_bytes()[: 4 * SECTOR] == before[: 4 * SECTOR]
    assert path.read_bytes()[outside] == before[outside]
    put(disk, 4, DATA[:SECTOR])  # the disk is still in order
    assert get(disk, 4, 1) == DATA[:SECTOR]
    disk.close()
    path.unlink()
    return injected.met >= at


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EIO, IoError),
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFAULT, MemoryAccess),
    ],
)
def test_an_error_number_is_mapped(number: int, kind: type[DiskError], tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        Fault(patch, "pwritev", errno.errorcode[number], 1)
        with pytest.raises(kind, match="image"):
            put(disk, 0, bytes(512))
    disk.close()


def test_a_file_truncated_behind_our_back_is_never_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "image"
    disk = FileDisk(str(path), create=64 * 512)
    fill(disk)
    heard: list[int] = []
    disk.on_resize(heard.append)
    os.truncate(path, 10 * 512 + 100)
    with pytest.raises(MediumError) as caught:
        get(disk, 8, 4)
    assert (caught.value.kind, caught.value.sector) == (Medium.UNRECOVERED_READ, 10)
    run(disk.refresh())
    assert (disk.sector_count, heard) == (10, [10])
    os.truncate(path, 20 * 512)
    run(disk.refresh())
    assert (disk.sector_count, heard) == (20, [10, 20])
    disk.close()


def test_a_flush_that_failed_never_succeeds_until_the_disk_is_reopened(tmp_path: Path) -> None:
    """Section 3, fsyncgate."""
    path = str(tmp_path / "image")
    disk = FileDisk(path, create=1 << 20)
    put(disk, 0, noise(512))
    with pytest.MonkeyPatch.context() as patch:
        Fault(patch, "fdatasync", "EIO", 1)
        told = []
        for _ in range(3):
            with pytest.raises(IoError) as caught:
                run(disk.flush())
            told.append(caught.value)
            put(disk, 0, noise(512))
        assert len(set(map(id, told))) == 3, "one error raised again and again grows"
    with pytest.raises(IoError):
        run(disk.flush())
    disk.close()
    disk = FileDisk(path)
    run(disk.flush())
    disk.close()


def test_two_flushes_that_cover_a_lost_write_both_fail(tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    put(disk, 0, noise(512))
    with pytest.MonkeyPatch.context() as patch:
        Fault(patch, "fdatasync", "EIO", 1)
        flushes = [Stepped(disk.flush()) for _ in range(2)]
        for flush in flushes:
            with pytest.raises(IoError):
                flush.work()
    disk.close()


def test_flushes_that_wait_together_are_one_sync(tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        counted = Fault(patch, "fdatasync", "none", 0)
        flushes = [Stepped(disk.flush()) for _ in range(5)]
        for flush in flushes:
            flush.work()
            assert flush.done
        assert counted.met == 1
        put(disk, 0, noise(512))
        run(disk.flush())
        assert counted.met == 2
    disk.close()


def test_a_fua_write_is_stable_where_the_file_system_has_no_dsync(tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    real = os.pwritev
    with pytest.MonkeyPatch.context() as patch:

        def without_dsync(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if flags & os.RWF_DSYNC:
                raise OSError(errno.EOPNOTSUPP, "no")
            return real(fd, buffers, offset, flags)

        counted = Fault(patch, "fdatasync", "none", 0)
        patch.setattr(os, "pwritev", without_dsync)
        put(disk, 3, noise(512), fua=True)
        assert counted.met == 1
    assert get(disk, 3, 1) == noise(512)
    disk.close()


def test_a_read_that_would_block_is_done_by_a_worker(tmp_path: Path) -> None:
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    data = fill(disk)
    disk._read_flags = os.RWF_NOWAIT
    for fault in ("EAGAIN", "EOPNOTSUPP", "short"):
        with pytest.MonkeyPatch.context() as patch:
            Fault(patch, "preadv", fault, 1)
            buffer = view(3 * SECTOR)
            stepped = Stepped(disk.read(0, [buffer]))
            assert not stepped.done
            stepped.work()
            assert stepped.done
            assert buffer == data[: 3 * SECTOR]
        disk._inline_reads = True
    disk.close()


def test_a_file_system_that_refuses_nowait_by_einval_is_left_to_workers(tmp_path: Path) -> None:
    """As f2fs does for buffered files."""
    disk = FileDisk(str(tmp_path / "image"), create=1 << 20)
    disk._read_flags = disk._write_flags = os.RWF_NOWAIT
    disk._memory = False
    preadv, pwritev = os.preadv, os.pwritev

    def refusing(call: Callable[..., int]) -> Callable[..., int]:
        def wrapped(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if flags & os.RWF_NOWAIT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return call(fd, buffers, offset, flags)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "preadv", refusing(preadv))
        patch.setattr(os, "pwritev", refusing(pwritev))
        put(disk, 0, DATA)
        assert get(disk, 0, len(DATA) // disk.sector_size) == DATA
    assert not disk._inline_reads
    assert disk._write_flags == 0
    disk.close()
