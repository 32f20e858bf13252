"""Hostile 4.8: every call to SQLite fails, once and for ever; no success is silent."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    IoError,
    Medium,
    MediumError,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.layers import sqlite_file
from drivebay.disk.layers.sql import SqlLayer, open_over
from drivebay.suspend import run
from tests.disk.support import get, noise, put

SECTORS = 64
SIZE = SECTORS * 512

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where a sync takes no time
CODES = ("FULL", "BUSY", "LOCKED", "IOERR", "CORRUPT", "NOTADB", "READONLY", "NOMEM")


class Faulty(sqlite3.Connection):
    """Fails its `at`-th call from `armed` on, and the later ones too if it is `for_ever`."""

    armed = for_ever = False
    at = met = 0
    code = "IOERR"

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._strike()
        return super().execute(*arguments)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        self._strike(rows)
        return super().executemany(sql, rows)

    def _strike(self, rows: Iterable[Any] = ()) -> None:
        if not self.armed:
            return
        self.met += 1
        if self.met == self.at or (self.for_ever and self.met > self.at):
            super().executemany("INSERT OR REPLACE INTO sectors VALUES (?, ?)", list(rows)[:2])
            raise failure(self.code)


def failure(name: str) -> sqlite3.Error:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_{name}")
    return error


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *words, **options: real(*words, factory=Faulty, **options)
    )


def opened(path: Path) -> tuple[SqlLayer, Faulty]:
    layer = open_over(str(path), RamDisk(SIZE), create=True, read_only=False)
    assert isinstance(layer.file._db, Faulty)
    return layer, layer.file._db


def write(layer: SqlLayer) -> bytes:
    put(layer, 4, noise(4096, 8), fua=True)
    return noise(4096, 8)


def zero(layer: SqlLayer) -> bytes:
    run(layer.write_zeroes(4, 8, True, False, False))
    return bytes(4096)


def drop(layer: SqlLayer) -> bytes:
    run(layer.unmap(4, 8, True))
    run(layer.flush())
    return bytes(4096)


def read(layer: SqlLayer) -> bytes:
    return get(layer, 4, 8)


def resize(layer: SqlLayer) -> bytes:
    run(layer.resize(8))
    run(layer.resize(SECTORS))
    return get(layer, 4, 4) + bytes(2048)


@pytest.mark.parametrize(
    ("code", "for_ever"), [*((code, False) for code in CODES), ("FULL", True), ("IOERR", True)]
)
@pytest.mark.parametrize("operation", [write, zero, drop, read, resize], ids=lambda o: o.__name__)
def test_a_fault_is_an_error_and_loses_nothing(
    operation: Callable[[SqlLayer], bytes],
    code: str,
    for_ever: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL)
    at = 1
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        while _strike(operation, code, for_ever, at, Path(folder) / f"{at}.dbhd"):
            at += 1
    assert 2 <= at < 20


def _strike(
    operation: Callable[[SqlLayer], bytes], code: str, for_ever: bool, at: int, path: Path
) -> bool:
    """Whether the operation came as far as the fault."""
    layer, faulty = opened(path)
    before = noise(SIZE, 1)
    put(layer, 0, before)
    run(layer.flush())
    faulty.at, faulty.code, faulty.for_ever, faulty.armed = at, code, for_ever, True
    expected = None
    try:
        expected = operation(layer)
    except DiskError:
        assert faulty.met >= at
    else:
        assert faulty.met < at, "a fault was swallowed"
    faulty.armed = False
    if expected is None and operation is not resize:
        # What failed is as if a power cut had been: the old content or the new in each sector.
        # What was written is still there, and what was flushed before is untouched.
        now = get(layer, 0, SECTORS)
        assert now[: 4 * 512] == before[: 4 * 512]
        assert now[12 * 512 :] == before[12 * 512 :]
        run(layer.flush())
        assert get(layer, 0, SECTORS) == now
        if operation is not read:
            assert now[4 * 512 : 12 * 512] == (
                noise(4096, 8) if operation is write else bytes(4096)
            )
    if expected is not None:
        assert get(layer, 4, 8) == expected
    content, size = get(layer, 0, layer.sector_count), layer.sector_count
    layer.close()
    again, _ = opened(path)
    assert again.sector_count == size
    assert get(again, 0, size) == content
    put(again, 4, noise(512, 5), fua=True)  # it is in order
    again.close()
    return faulty.met >= at


@pytest.mark.parametrize(
    ("code", "kind", "number"),
    [
        ("FULL", NoSpace, errno.ENOSPC),
        ("BUSY", IoError, errno.EBUSY),
        ("LOCKED", IoError, errno.EBUSY),
        ("IOERR", IoError, errno.EIO),
        ("NOMEM", IoError, errno.ENOMEM),
        ("CORRUPT", MediumError, Medium.WRITE_FAULT),
        ("NOTADB", MediumError, Medium.WRITE_FAULT),
        ("READONLY", ReadOnly, None),
    ],
)
def test_every_error_of_sqlite_is_one_of_the_disk(
    code: str, kind: type[DiskError], number: Any, tmp_path: Path
) -> None:
    layer, faulty = opened(tmp_path / "disk")
    put(layer, 0, noise(512))
    faulty.at, faulty.code, faulty.armed = 3, code, True
    with pytest.raises(kind) as caught:
        run(layer.flush())
    assert type(caught.value) is kind
    assert number in (None, getattr(caught.value, "errno", None), getattr(caught.value, "kind", 0))
    layer.close()


def test_an_opening_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    opened(path)[0].close()

    real = sqlite_file._connect
    for code in ("IOERR", "BUSY", "NOTADB", "READONLY"):
        for at in range(1, 30):

            def failing(*words: Any, code: str = code, at: int = at) -> sqlite3.Connection:
                connection = real(*words)
                assert isinstance(connection, Faulty)
                connection.armed, connection.at, connection.code = True, at, code
                return connection

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sqlite_file, "_connect", failing)
                try:
                    open_over(str(path), RamDisk(SIZE), create=False, read_only=False).close()
                except DiskOpenError as error:
                    assert "\n" not in str(error)
                else:
                    break
            opened(path)[0].close()  # nobody holds it
        assert at > 5


# -- kill -9 -------------------------------------------------------------------------------------

WRITER = """
import random, sys
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.layers import sql, sqlite_file
from drivebay.suspend import run
sql.FULL, sqlite_file.CHECKPOINT = 64 << 10, 256 << 10
layer = sql.open_over(sys.argv[1], RamDisk(1 << 20), create=True, read_only=False)
rng = random.Random(sys.argv[2])
epoch = int(sys.argv[3])
while True:
    epoch += 1
    for _ in range(rng.randrange(1, 40)):
        sector = rng.randrange(2000)
        data = epoch.to_bytes(4, "little") * 128 * rng.randrange(1, 40)
        run(layer.write(sector, [memoryview(data)]))
        print("w", epoch, sector, len(data) // 512, flush=True)
    run(layer.flush())
    print("f", epoch, flush=True)
"""


def test_what_was_flushed_is_there_after_a_kill(tmp_path: Path) -> None:
    """40 kills, or as many as DRIVEBAY_KILLS says. Each sector holds what was flushed last, or
    something that was written later.
    """
    path = tmp_path / "disk.dbhd"
    rng = random.Random(11)
    flushed: dict[int, int] = {}
    later: dict[int, set[int]] = {}
    epoch = 0
    for number in range(int(os.environ.get("DRIVEBAY_KILLS", "20"))):
        command = [sys.executable, "-c", WRITER, str(path), str(number), str(epoch)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.randrange(1, 150))]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines()
        for line in lines:
            kind, *numbers = line.split() or [""]
            if kind == "w" and len(numbers) == 3:
                epoch, sector, count = map(int, numbers)
                for at in range(sector, min(sector + count, 2048)):
                    later.setdefault(at, set()).add(epoch)
            elif kind == "f":
                epoch = int(numbers[0])
                flushed |= {at: max(epochs) for at, epochs in later.items()}
                later.clear()
        epoch += 1  # of a write that nobody heard of
        layer, _ = opened(path)
        content = get(layer, 0, 2048)
        with_epoch = {}
        for at in range(2048):
            sector_data = content[at * 512 : at * 512 + 512]
            assert sector_data == sector_data[:4] * 128, "a torn sector"
            found = int.from_bytes(sector_data[:4], "little")
            assert found == flushed.get(at, 0) or found in later.get(at, ()) or found == epoch
            with_epoch[at] = found
        flushed = with_epoch
        later.clear()
        assert layer.file._db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        layer.close()
