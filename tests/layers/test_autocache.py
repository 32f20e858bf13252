"""The read cache that stays; openvmm.md section 4.2, and its race (9207492bc)."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.layers import sqlite_file
from drivebay.disk.layers.autocache import ROOT, open_cache
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.sql import open_over
from drivebay.disk.layers.stack import Place
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from drivebay.testing import RecordingDisk
from tests.disk.support import fill, get, noise, put

SECTORS = 64
SIZE = SECTORS * 512


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "caches"
    monkeypatch.setenv(ROOT, str(root))
    return root


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "base.img"
    path.write_bytes(noise(SIZE))
    return path


def cached(base: RamDisk | RecordingDisk, key: str = "k") -> LayeredDisk:
    place = Place(open_cache(base, key), read_cache=True)
    return LayeredDisk([place, DiskLayer(base)], read_only=True)


def test_what_was_read_once_is_read_from_the_cache_the_next_time(root: Path) -> None:
    base = RamDisk(SIZE)
    data = fill(base)
    disk = cached(base)
    assert get(disk, 8, 16) == data[8 * 512 : 24 * 512]
    disk.layers[0].close()
    below = RecordingDisk(base)
    disk = cached(below)
    assert get(disk, 4, 24) == data[4 * 512 : 28 * 512]
    assert [(call.sector, call.count) for call in below.calls] == [(4, 4), (24, 4)]
    disk.close()
    assert [path.name for path in (root / "k").iterdir()] == ["cache.dbhd"]


def test_a_diff_over_a_cache_over_an_image(image: Path, root: Path) -> None:
    disk = open_disk(f"memdiff:autocache:deb,,ian:{image}")
    put(disk, 0, noise(512, 3))
    assert get(disk, 0, SECTORS) == noise(512, 3) + noise(SIZE)[512:]
    assert [below.kind for below in disk.inner] == ["ram layer", "sql", "file"]
    disk.close()
    with sqlite3.connect(root / "deb,ian" / "cache.dbhd") as db:
        assert db.execute("SELECT count(*) FROM sectors").fetchone() == (SECTORS - 1,)
        [[text]] = db.execute("SELECT metadata FROM meta")
        assert '"logically_read_only":true' in text
    db.close()


def test_without_a_key_it_is_the_disks_own_id(root: Path) -> None:
    base = RamDisk(SIZE)
    base.disk_id = bytes(range(16))
    disk = LayeredDisk([Place(open_cache(base), read_cache=True)], read_only=True)
    assert (root / "000102030405060708090a0b0c0d0e0f" / "cache.dbhd").exists()
    disk.close()


def test_what_cannot_be_cached_is_refused_in_a_line(
    image: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "other").mkdir(parents=True)
    other = RamDisk(2 * SIZE)
    cached(other, "other").layers[0].close()
    for spec, message in (
        ("memdiff:autocache::mem:32K", "without a disk ID"),
        (f"memdiff:autocache:..:{image}", "no name of a folder"),
        (f"memdiff:autocache:a/b:{image}", "no name of a folder"),
        (f"autocache:k:{image}", "cannot be written"),
        (f"memdiff:autocache:other:{image}", "holds 128 sectors of 512 bytes, the disk has 64"),
    ):
        with pytest.raises(DiskOpenError, match=message) as caught:
            open_disk(spec)
        assert "\n" not in str(caught.value)
    monkeypatch.delenv(ROOT)
    with pytest.raises(DiskOpenError, match=f"{ROOT} is not set"):
        open_disk(f"memdiff:autocache:k:{image}")


def test_many_may_fill_a_cache_at_once_and_none_replaces_a_row() -> None:
    base = RamDisk(SIZE)
    data = fill(base)
    disks = [cached(base) for _ in range(3)]
    for disk in disks:
        assert get(disk, 0, 32) == data[: 32 * 512]
    for disk in disks:
        run(disk.layers[0].flush())
        assert get(disk, 0, SECTORS) == data
        disk.layers[0].close()
    again = cached(base)
    base.close()
    assert get(again, 0, SECTORS) == data
    again.layers[0].close()


def test_a_cache_that_is_busy_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "CACHE_WAIT", 0.0)
    monkeypatch.setattr("drivebay.disk.layers.sql.FULL_CACHE", 4096)
    base = RamDisk(SIZE)
    data = fill(base)
    disk = cached(base)
    with sqlite3.connect(open_path()) as db:
        db.execute("BEGIN EXCLUSIVE")
        for sector in range(SECTORS):
            assert get(disk, sector, 1) == data[sector * 512 : sector * 512 + 512]
    db.close()
    assert get(disk, 0, SECTORS) == data
    disk.close()
    with sqlite3.connect(open_path()) as db:
        assert db.execute("SELECT count(*) FROM sectors").fetchone()[0] > 0
    db.close()


def open_path() -> Path:
    return Path(os.environ[ROOT]) / "k" / "cache.dbhd"


def test_a_cache_that_others_have_in_wal_mode_is_refused_where_that_is_not_safe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """sqlite.org/wal.html#walresetbug: two connections in WAL mode."""
    base = RamDisk(SIZE)
    cached(base).layers[0].close()
    with sqlite3.connect(open_path(), isolation_level=None) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("BEGIN")
        other.execute("SELECT * FROM sectors").fetchall()
        monkeypatch.setattr(sqlite_file, "CACHE_WAIT", 0.0)
        monkeypatch.setattr(sqlite_file, "has_wal_reset_bug", lambda: True)
        with pytest.raises(DiskOpenError, match=r"WAL mode|in use"):
            cached(base)
    other.close()
    cached(base).layers[0].close()
    with sqlite3.connect(open_path()) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() != ("wal",)
    db.close()


OPEN = """
import os, sys
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
sys.stdin.readline()
disk = open_disk(sys.argv[1])
data = bytearray(disk.byte_count)
run(disk.read(0, [memoryview(data)]))
disk.close()
sys.stdout.buffer.write(data)
"""


def test_eight_processes_make_the_same_new_cache_at_once(image: Path, root: Path) -> None:
    """Hostile 2.8: OpenVMM's create-if-missing race."""
    command = [sys.executable, "-c", OPEN, f"memdiff:autocache:new:{image}"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(8)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        assert process.communicate(timeout=120)[0] == noise(SIZE)
        assert process.returncode == 0
    assert [path.name for path in (root / "new").iterdir()] == ["cache.dbhd"]
    with sqlite3.connect(root / "new" / "cache.dbhd") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM sectors").fetchone() == (SECTORS,)
    db.close()


FORMAT = """
import os, signal, sqlite3, sys
from drivebay.disk.layers import sqlite_file
at = int(sys.argv[2])
real = sqlite3.connect

class Killed(sqlite3.Connection):
    calls = 0
    def execute(self, *arguments):
        self.calls += 1
        if self.calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(*arguments)

sqlite_file.sqlite3.connect = lambda *a, **k: real(*a, factory=Killed, **k)
sqlite_file.create(sys.argv[1], 64, 512)
"""


@pytest.mark.parametrize("at", range(1, 8))
def test_a_kill_in_the_middle_of_formatting_leaves_nothing_under_the_name(
    at: int, tmp_path: Path
) -> None:
    path = tmp_path / "disk.dbhd"
    done = subprocess.run([sys.executable, "-c", FORMAT, str(path), str(at)], check=False)
    killed = done.returncode == -signal.SIGKILL
    assert killed == (at < 7)
    assert path.exists() == (not killed)
    base = RamDisk(SIZE)
    layer = open_over(str(path), base, create=True, read_only=False)
    put(layer, 0, noise(512))
    layer.close()
    FileDisk(str(path), read_only=True).close()
