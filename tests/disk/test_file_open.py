"""Opening a file disk: what it refuses and why, what it creates, whom it lets in."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError, ReadOnly
from drivebay.guests.qemu import find_qemu
from drivebay.suspend import run
from tests.disk.support import fill, get, put

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "image")


def refused(*arguments: Any, **options: Any) -> DiskOpenError:
    with pytest.raises(DiskOpenError) as caught:
        FileDisk(*arguments, **options)
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


def test_a_missing_file_is_refused_with_a_way_out(path: str, tmp_path: Path) -> None:
    error = refused(path)
    assert "No such file" in str(error)
    assert "create=" in error.hint
    missing = tmp_path / "no" / "image"
    assert refused(str(missing), create=MIB).hint == f"there is no folder {missing.parent}"


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for read_only in (False, True):
        assert "FIFO" in str(refused(str(fifo), read_only=read_only))
        assert "irectory" in str(refused(str(tmp_path), read_only=False))
        assert "character device" in str(refused("/dev/null", read_only=read_only))
    assert "folder" in str(refused(str(tmp_path), read_only=True))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        refused(str(tmp_path / "socket"))


def test_a_file_of_the_wrong_size_is_refused(path: str) -> None:
    Path(path).write_bytes(bytes(1000))
    error = refused(path)
    assert "1000 bytes are not a whole number of sectors of 512" in str(error)
    assert error.hint == "the next size that is: 1024"
    refused(path, sector_size=1000)
    Path(path).write_bytes(b"")
    assert "is empty" in str(refused(path))


def test_a_file_without_permission_is_refused_with_a_way_out(path: str) -> None:
    Path(path).write_bytes(bytes(4096))
    Path(path).chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write everything")
    assert ",ro" in refused(path).hint


def test_create_makes_a_file_or_takes_one_of_that_size_and_cuts_nothing_off(path: str) -> None:
    disk = FileDisk(path, create=MIB)
    data = fill(disk)
    disk.close()
    assert "not the 2097152 that create=" in str(refused(path, create=2 * MIB))
    assert "not the 512" in str(refused(path, create=512))
    disk = FileDisk(path, create=MIB)
    assert get(disk, 0, 2048) == data
    disk.close()


def test_create_that_cannot_work_leaves_nothing_behind(path: str) -> None:
    for size in (0, 1000, 1 << 63):
        refused(path, create=size)
        assert not Path(path).exists()

    def full(fd: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", full)
        assert "No space" in str(refused(path, create=MIB))
        assert not Path(path).exists()
    assert "No such file" in str(refused(path, create=MIB, read_only=True))


def test_one_writer_or_many_readers(path: str) -> None:
    """Hostile 4.10: two writers on one file must be refused."""
    disk = FileDisk(path, create=MIB)
    assert "in use" in str(refused(path))
    assert "in use" in str(refused(path, read_only=True))
    disk.close()
    readers = [FileDisk(path, read_only=True) for _ in range(3)]
    assert "in use" in str(refused(path))
    for reader in readers:
        reader.close()
    FileDisk(path).close()


def test_a_writer_in_another_process_is_refused_until_it_ends(path: str) -> None:
    holder = (
        "import sys; from drivebay.disk.backends.file import FileDisk\n"
        f"disk = FileDisk({path!r}, create={MIB}); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        assert "in use" in str(refused(path))
        process.kill()
        process.wait()
        FileDisk(path).close()


@pytest.mark.guest
def test_qemu_and_drivebay_keep_each_other_out(path: str) -> None:
    """QEMU's locks are not `flock`'s."""
    qemu = find_qemu()
    environment = {**os.environ, **qemu.environment}

    def command(*options: str) -> list[str]:
        return [*qemu.command("qemu-io"), "-f", "raw", *options, path]

    def qemu_io(*options: str) -> str:
        done = subprocess.run(
            command("-c", "read 0 512", *options),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout

    disk = FileDisk(path, create=MIB)
    assert "lock" in qemu_io()
    disk.close()
    disk = FileDisk(path, read_only=True)
    assert "lock" in qemu_io()
    assert "read 512/512" in qemu_io("-r")
    disk.close()
    assert "read 512/512" in qemu_io()

    with subprocess.Popen(
        command(), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        assert b"read 512/512" in process.stdout.readline()
        for read_only in (False, True):
            error = refused(path, read_only=read_only)
            assert "in use" in str(error) and "QEMU" in error.hint
        process.kill()
    FileDisk(path).close()


def test_a_reader_in_qemu_that_forbids_writers_keeps_writers_out(path: str) -> None:
    """A guest's read-only disk: it uses consistent reads and does not share writing."""
    Path(path).write_bytes(bytes(MIB))
    with open(path, "rb") as reader:
        for byte in (100, 201):
            lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(reader, fcntl.F_OFD_SETLK, lock)
        assert "in use" in str(refused(path))
        FileDisk(path, read_only=True).close()
    FileDisk(path).close()


def test_a_file_system_without_byte_locks_does_with_flock(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(fd: int, command: int, argument: bytes) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("fcntl.fcntl", none)
    disk = FileDisk(path, create=MIB)
    assert "in use" in str(refused(path))
    disk.close()


def test_opening_and_closing_leaves_no_descriptor(path: str, tmp_path: Path) -> None:
    """Hostile 4.11."""
    FileDisk(path, create=MIB).close()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        FileDisk(path).close()
        RamDisk(MIB).close()
        refused(path, create=512)
        refused(path, sector_size=100)
        refused(str(tmp_path), read_only=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_read_only_refuses_every_change(path: str) -> None:
    Path(path).write_bytes(bytes(4096))
    disk = FileDisk(path, read_only=True)
    for change in (disk.write_zeroes(0, 1), disk.unmap(0, 1), disk.resize(1)):
        with pytest.raises(ReadOnly):
            run(change)
    with pytest.raises(ReadOnly):
        put(disk, 0, bytes(512))
    disk.close()


def test_a_disk_id_is_the_same_after_a_restart_and_by_any_name(path: str, tmp_path: Path) -> None:
    FileDisk(path, create=MIB).close()
    (tmp_path / "link").symlink_to(path)
    ids = []
    for name in (path, str(tmp_path / "link"), os.path.relpath(path)):
        disk = FileDisk(name)
        ids.append(disk.disk_id)
        disk.close()
    other = FileDisk(str(tmp_path / "other"), create=MIB)
    assert len(set(ids)) == 1
    assert ids[0] not in (None, other.disk_id)
    other.close()
