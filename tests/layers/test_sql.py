"""The SQLite layer; openvmm.md section 4.2, and what it says there that should be better."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Extent, Unmap
from drivebay.disk.errors import DiskOpenError, Medium, MediumError, ReadOnly
from drivebay.disk.layers import sql as sql_module
from drivebay.disk.layers import sqlite_file
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.sql import SqlLayer, open_alone, open_over
from drivebay.disk.layers.sqlite_file import SqliteFile, has_wal_reset_bug
from drivebay.disk.spec import SpecError, open_disk
from drivebay.disk.tree import describe
from drivebay.suspend import run
from tests.disk.support import Stepped, fill, get, noise, put, view
from tests.disk.test_model import SECTOR, DiskMachine

SECTORS = 64
SIZE = SECTORS * 512
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where a sync takes no time


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "disk.dbhd")


def rows(path: str) -> dict[int, bytes | None]:
    with sqlite3.connect(path) as db:
        return dict(db.execute("SELECT sector, data FROM sectors"))


def make_theirs(path: str, sectors: dict[int, bytes | None], count: int = SECTORS) -> None:
    """A file as OpenVMM makes one."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE sectors(sector INTEGER PRIMARY KEY, data BLOB)")
    db.execute("CREATE TABLE meta(metadata TEXT)")
    text = f'{{"logically_read_only":false,"sector_count":{count},"sector_size":512}}'
    db.execute("INSERT INTO meta VALUES (?)", [text])
    db.executemany("INSERT INTO sectors VALUES (?, ?)", sectors.items())
    db.commit()
    db.close()


# -- what is stored ------------------------------------------------------------------------------


def test_a_file_of_theirs_opens_in_ours(path: str) -> None:
    make_theirs(path, {3: noise(512), 4: None, 63: noise(512, 2)})
    disk = open_disk(f"sql:{path}")
    assert get(disk, 2, 4) == bytes(512) + noise(512) + bytes(1024)
    assert get(disk, 63, 1) == noise(512, 2)
    disk.close()


def test_only_what_is_not_zero_is_stored(path: str) -> None:
    disk = open_disk(f"sql:{path};create=32K")
    put(disk, 0, noise(1024) + bytes(1024) + noise(512))
    run(disk.flush())
    run(disk.unmap(0, 1))
    run(disk.write_zeroes(60, 4))
    disk.close()
    assert sorted(rows(path)) == [1, 4]


def test_over_data_zeroes_are_rows_without_data(path: str) -> None:
    base = RamDisk(SIZE)
    below = fill(base)
    disk = LayeredDisk.over(open_over(path, base, create=True, read_only=False), base)
    put(disk, 0, noise(512) + bytes(512))
    run(disk.write_zeroes(8, 2))
    run(disk.unmap(0, 4))  # what is not held may keep its old content, and does
    assert get(disk, 0, 10) == bytes(1024) + below[1024 : 8 * 512] + bytes(1024)
    disk.close()
    assert rows(path) == {0: None, 1: None, 8: None, 9: None}


def test_a_flush_is_one_transaction_and_none_if_nothing_was_written(path: str) -> None:
    disk = open_disk(f"sql:{path};create=32K")
    layer = disk.inner[0]
    assert isinstance(layer, SqlLayer)
    statements: list[str] = []
    layer.file._db.set_trace_callback(statements.append)
    for sector in range(0, 40, 2):
        put(disk, sector, noise(512))
    run(disk.flush())
    run(disk.flush())
    assert [word for word in statements if word.startswith(("BEGIN", "COMMIT"))] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    [[synchronous]] = layer.file._db.execute("PRAGMA synchronous")
    assert synchronous == 2  # FULL
    disk.close()


def test_reads_of_what_is_absent_or_not_yet_stored_cost_no_sql(path: str) -> None:
    disk = open_disk(f"sql:{path};create=32K")
    layer = disk.inner[0]
    assert isinstance(layer, SqlLayer)
    put(disk, 0, noise(512))
    run(disk.flush())
    put(disk, 8, noise(1024))
    statements: list[str] = []
    layer.file._db.set_trace_callback(statements.append)
    assert get(disk, 1, 10) == bytes(7 * 512) + noise(1024) + bytes(512)
    assert statements == []
    assert get(disk, 0, 1) == noise(512)
    assert len(statements) == 1
    disk.close()


def test_a_batch_that_is_full_is_stored_by_who_finds_it_so(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_module, "FULL", 64 << 10)
    disk = open_disk(f"sql:{path};create=1M")
    layer = disk.inner[0]
    assert isinstance(layer, SqlLayer)
    for _ in range(100):  # what is written again and again takes its place only once
        put(disk, 0, noise(4096))
    assert layer.file.read(0, 8)[1] == list(range(8))
    for sector in range(0, 2048, 8):
        put(disk, sector, noise(4096, sector))
        assert layer._batches[0].size <= (64 << 10) + 4096
    assert layer.file.read(0, 8)[1] == []
    for sector in range(0, 2048, 8):
        assert get(disk, sector, 8) == noise(4096, sector)
    disk.close()


def test_the_log_is_moved_to_the_database_when_it_is_long(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "CHECKPOINT", 128 << 10)
    disk = open_disk(f"sql:{path};create=1M")
    layer = disk.inner[0]
    assert isinstance(layer, SqlLayer)
    for number in range(20):
        fill(disk, number)
        run(disk.flush())
        layer.file._checkpoint()  # it has a thread of its own, for which nobody waits
    assert Path(f"{path}-wal").stat().st_size < 4 << 20
    assert Path(path).stat().st_size > 1 << 20
    disk.close()


def test_extents_say_what_is_held_and_what_of_it_is_zero(path: str) -> None:
    make_theirs(path, {3: noise(512), 4: None, 5: None, 6: noise(512)})
    disk = open_disk(f"sql:{path}")
    put(disk, 10, noise(512))
    assert run(disk.extents(0, 12)) == [
        Extent(0, 3, allocated=False, zero=True),
        Extent(3, 1, allocated=True, zero=False),
        Extent(4, 2, allocated=False, zero=True),
        Extent(6, 1, allocated=True, zero=False),
        Extent(7, 3, allocated=False, zero=True),
        Extent(10, 1, allocated=True, zero=False),
        Extent(11, 1, allocated=False, zero=True),
    ]
    disk.close()


def test_a_write_while_a_flush_is_under_way_is_not_held_up(path: str) -> None:
    layer = open_alone(path, SIZE, None, read_only=False)
    put(layer, 0, noise(1024))
    flush = Stepped(layer.flush())
    put(layer, 1, noise(1024, 2))
    assert get(layer, 0, 4) == noise(512) + noise(1024, 2) + bytes(512)
    run(layer.unmap(0, 1))
    assert get(layer, 0, 1) == bytes(512)
    flush.work()
    assert flush.done
    assert get(layer, 0, 4) == bytes(512) + noise(1024, 2) + bytes(512)
    assert layer.file.read(0, 2)[1] == []
    run(layer.flush())
    assert layer.file.read(0, 4)[1] == [0, 3]
    layer.close()


def test_a_row_that_goes_while_a_read_waits_reads_as_before_or_zero(path: str) -> None:
    base = RamDisk(SIZE)
    layer = open_over(path, base, create=True, read_only=False)
    put(layer, 0, noise(512))
    run(layer.flush())
    data = view(512)
    read = Stepped(layer.read(0, [data]))
    run(layer.unmap(0, 1, True))
    layer.file.store([(0, 1)], [])
    read.work()
    assert read.done
    assert data == bytes(512)
    layer.close()


# -- sizes ---------------------------------------------------------------------------------------


def test_what_a_shrink_cut_off_is_gone_from_the_file(path: str) -> None:
    disk = open_disk(f"sql:{path};create=32K")
    data = fill(disk)
    run(disk.resize(10))
    run(disk.resize(100))
    assert get(disk, 0, 100) == data[:5120] + bytes(90 * 512)
    disk.close()
    assert sorted(rows(path)) == list(range(10))
    again = open_disk(f"sql:{path}")
    assert again.sector_count == 100
    again.close()


def test_a_disk_tells_what_it_is(path: str) -> None:
    disk = open_disk(f"sql:{path};create=64K;sector=4k")
    [layer] = disk.inner
    assert (disk.sector_size, disk.sector_count, disk.volatile_cache) == (4096, 16, True)
    assert disk.unmap_behaviour is Unmap.ZEROES
    assert layer.unmap_behaviour is Unmap.ZEROES
    assert describe(disk)["inner"][0]["details"] == {
        "path": path,
        "sqlite": sqlite3.sqlite_version,
    }
    assert disk.allocated_bytes
    disk.close()


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 46, 1), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_versions_with_the_wal_reset_bug_are_known(
    version: tuple[int, int, int], has_it: bool
) -> None:
    assert has_wal_reset_bug(version) is has_it


def test_a_file_that_is_written_lets_no_other_connection_in(path: str) -> None:
    """What keeps the WAL-reset bug away, whatever the version."""
    disk = open_disk(f"sql:{path};create=32K")
    fill(disk)
    run(disk.flush())
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(path, timeout=0).execute("SELECT * FROM sectors").fetchall()
    disk.close()


# -- opening -------------------------------------------------------------------------------------


def test_bad_specs_say_where() -> None:
    for text, position in (
        ("sql:", 4),
        ("sql:a;create", 12),
        ("sql:a;create=1000", 4),
        ("sql:a;direct", 6),
        ("sqldiff:a", 9),
        ("sqldiff:a;creat:mem:1M", 10),
        ("sqldiff:a;create", 16),
        ("sqldiff::mem:1M", 8),
        ("autocache:key", 13),
        ("autocache::", 11),
    ):
        with pytest.raises(SpecError) as caught:
            open_disk(text)
        assert caught.value.position == position, text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sql:missing", "No such file"),
        ("sql:folder", "is not a file"),
        ("sql:text", "is not an SQLite database"),
        ("sql:empty", "not of a disk"),
        ("sql:good;create=64K", "has 32768 bytes, not the 65536"),
        ("sql:good;sector=4k", "has sectors of 512 bytes, not of 4096"),
        ("sqldiff:good:mem:32K;sector=4k", "has other sectors"),
        ("sqldiff:missing:mem:32K", "No such file"),
        ("sqldiff:nowhere/file;create:mem:32K", "cannot be created"),
        ("sql:trigger", "not of a disk"),
        ("sql:view", "not of a disk"),
        ("sql:no-metadata", "metadata make no sense"),
        ("sql:bad-metadata", "metadata make no sense"),
        ("sql:bad-sector", "no disk has sectors of 1000"),
        ("sql:no-sectors", "no disk has 0 sectors"),
        ("sql:too-many", "no disk has 9223372036854775807 sectors"),
        ("sql:cut", "malformed"),
    ],
)
def test_what_is_no_disk_is_refused_in_a_line_and_left_alone(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hostile 2.8: a file's content is not trusted, nor is code in it ever run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, though it is long enough to be one" * 99)
    (tmp_path / "empty").touch()
    changes = {
        "good": "SELECT 1",
        "trigger": "CREATE TRIGGER t AFTER INSERT ON sectors BEGIN DELETE FROM sectors; END",
        "view": "ALTER TABLE sectors RENAME TO s; CREATE VIEW sectors AS SELECT * FROM s",
        "no-metadata": "DELETE FROM meta",
        "bad-metadata": "UPDATE meta SET metadata = '[]'",
        "bad-sector": "UPDATE meta SET metadata = replace(metadata, '512', '1000')",
        "no-sectors": "UPDATE meta SET metadata = replace(metadata, '64', '0')",
        "too-many": "UPDATE meta SET metadata = replace(metadata, '64', '9223372036854775807')",
        "cut": "SELECT 1",
    }
    for name, change in changes.items():
        make_theirs(name, {number: noise(512) for number in range(40)})
        with sqlite3.connect(name) as db:
            db.executescript(change)
        db.close()
    with open("cut", "r+b") as file:
        file.truncate(8192)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}
    with pytest.raises(DiskOpenError, match=message) as caught:
        open_disk(spec)
    assert "\n" not in str(caught.value)
    assert before == {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.is_file()}


def test_a_second_writer_is_refused_and_readers_share(path: str) -> None:
    first = open_disk(f"sql:{path};create=32K")
    data = fill(first)
    for read_only in (False, True):
        with pytest.raises(DiskOpenError, match="in use by another") as caught:
            open_disk(f"sql:{path}", read_only=read_only)
        assert "\n" not in str(caught.value)
    first.close()
    readers = [open_disk(f"sql:{path}", read_only=True) for _ in range(3)]
    with pytest.raises(DiskOpenError, match="in use by another"):
        open_disk(f"sql:{path}")
    for reader in readers:
        assert get(reader, 0, SECTORS) == data
        with pytest.raises(ReadOnly):
            put(reader, 0, bytes(512))
        reader.close()
    open_disk(f"sql:{path}").close()


def test_a_base_in_a_folder_that_may_not_be_written_can_be_read(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = open_disk(f"sql:{path};create=32K")
    data = fill(disk)
    disk.close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    folder = Path(path).parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(folder.iterdir())
    disk = open_disk(f"memdiff:sql:{path}")
    assert get(disk, 0, SECTORS) == data
    assert sorted(folder.iterdir()) == before
    disk.close()
    folder.chmod(stat.S_IRWXU)


def test_rows_that_are_no_sectors_are_medium_errors(path: str) -> None:
    """openvmm.md section 4.2: "a blob with wrong length is an error"."""
    make_theirs(path, {0: noise(512), 1: noise(511), 2: noise(513), 4: noise(512)})
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO sectors VALUES (3, 'text'), (5, zeroblob(2000000))")
        db.execute("INSERT INTO sectors VALUES (-1, zeroblob(512)), (999, zeroblob(512))")
    db.close()
    disk = open_disk(f"sql:{path}")
    for sector in (1, 2, 3):
        with pytest.raises(MediumError) as caught:
            get(disk, sector, 2)
        assert (caught.value.kind, caught.value.sector) == (Medium.UNRECOVERED_READ, sector)
    with pytest.raises(MediumError):
        get(disk, 5, 1)  # it is too long to be read into memory at all
    assert get(disk, 4, 1) == get(disk, 0, 1) == noise(512)
    put(disk, 1, noise(512, 9))
    run(disk.flush())
    assert get(disk, 0, 2) == noise(512) + noise(512, 9)
    disk.close()


def test_a_row_that_vanished_is_a_medium_error(path: str) -> None:
    base = RamDisk(SIZE)
    layer = open_over(path, base, create=True, read_only=False)
    put(layer, 0, noise(1024))
    run(layer.flush())
    layer.file.store([(1, 1)], [])
    with pytest.raises(MediumError):
        get(layer, 0, 2)
    layer.close()


# -- models --------------------------------------------------------------------------------------


class SqlMachine(DiskMachine):
    """Over nothing, closed and opened again at any time."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.path = f"{self.folder.name}/disk"
        self.model = bytearray(16 * SECTOR)
        self.disk = self.open(16 * SECTOR)

    def open(self, create: int | None = None) -> LayeredDisk:
        return LayeredDisk([open_alone(self.path, create, None, read_only=False)])

    @rule()
    def close_and_open(self) -> None:
        self.disk.close()
        self.disk = self.open()

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class SqlDiffMachine(SqlMachine):
    """Over a file; where an unmap may leave what it finds, zeroes are asked for instead."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.path = f"{self.folder.name}/disk"
        base = FileDisk(f"{self.folder.name}/base", create=16 * SECTOR)
        self.model = bytearray(fill(base))
        base.close()
        self.disk = self.open(1)

    def open(self, create: int | None = None) -> LayeredDisk:
        base = FileDisk(f"{self.folder.name}/base", read_only=True)
        top = open_over(self.path, base, create=bool(create), read_only=False)
        return LayeredDisk.over(top, base)

    @rule()
    def close_and_open(self) -> None:
        # Only a running disk remembers what a shrink has hidden of the base.
        size = len(self.model)
        if size < 16 * SECTOR or self.disk._visible[1] < 16:  # type: ignore[attr-defined]
            return
        super().close_and_open()

    @rule(start=st.integers(0, 63), count=st.integers(0, 9))
    def unmap(self, start: int, count: int) -> None:
        start, count = self.sectors(start, count)
        before = bytes(self.model[start * SECTOR : (start + count) * SECTOR])
        run(self.disk.unmap(start, count))
        after = get(self.disk, start, count) if count else b""
        for at in range(0, len(after), SECTOR):
            new = after[at : at + SECTOR]
            assert new == before[at : at + SECTOR] or not any(new)
        self.change(start, after)


_short: Any = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSqlModel = SqlMachine.TestCase
TestSqlDiffModel = SqlDiffMachine.TestCase
TestSqlModel.settings = TestSqlDiffModel.settings = _short


def test_the_file_is_what_it_was_made(path: str) -> None:
    open_alone(path, SIZE, None, read_only=False).close()
    file = SqliteFile(path, "read")
    assert (file.sector_count, file.sector_size, file.logically_read_only) == (64, 512, False)
    file.close()
    assert [one.name for one in Path(path).parent.iterdir()] == ["disk.dbhd"]
