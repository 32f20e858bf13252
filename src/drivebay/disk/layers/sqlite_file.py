"""Sectors as rows of an SQLite database: the file format ``.dbhd`` (openvmm.md, section 4.2).

A row is a sector; one whose data are NULL is zero. Everything here may block. A file is either
written by one connection that nobody shares, or a cache that several processes fill, or read.

Versions 3.7.0 to 3.51.2 of SQLite, but for 3.44.6 and 3.50.7, have the "WAL-reset bug": commits can
be lost where two connections of a file in WAL mode write or checkpoint at once
(sqlite.org/wal.html#walresetbug). A file that is written is locked against every other connection,
and a cache uses a rollback journal, so that it cannot happen here with any of them.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

import msgspec

from drivebay.disk.contract import MAX_BYTES, MAX_SECTOR_SIZE
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    IoError,
    Medium,
    MediumError,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.layers.presence import SectorSet

__all__ = ["Rows", "SqliteFile", "Use", "create", "has_wal_reset_bug"]

log = logging.getLogger(__name__)

Use = Literal["alone", "cache", "read"]
"""Written by nobody else; filled by several; only read."""
Rows = tuple[int, int, "memoryview | None"]
"""First sector, number of sectors, and their data; None for zeroes."""

CHECKPOINT: Final = 16 << 20
"""Bytes that may be in the write-ahead log before they are moved to the database."""
LONGEST: Final = 1 << 20
"""Bytes of a value, above all that we ever store: a larger one is never read into memory."""
CACHE_WAIT: Final = 5.0
"""Seconds to wait while another process fills the cache."""

SCHEMA: Final = (
    "CREATE TABLE sectors (sector INTEGER PRIMARY KEY, data BLOB)",
    "CREATE TABLE meta (metadata TEXT)",
)
COLUMNS: Final = {"sectors": ["sector", "data"], "meta": ["metadata"]}
DELETE: Final = "DELETE FROM sectors WHERE sector BETWEEN ? AND ?"
ZERO: Final = (
    "WITH RECURSIVE range(n) AS (VALUES (?) UNION ALL SELECT n + 1 FROM range WHERE n < ?) "
    "INSERT OR REPLACE INTO sectors SELECT n, NULL FROM range"
)


class _Metadata(msgspec.Struct):
    logically_read_only: bool
    sector_count: int
    sector_size: int


class SqliteFile:
    """The database at `path`, open.

    Raises `DiskOpenError` if there is none, if it is no disk, or if somebody else has it.
    """

    def __init__(self, path: str, use: Use) -> None:
        self.path = path
        self.is_cache = use == "cache"
        self.read_only = use == "read"
        self._mutex = threading.Lock()
        self._logs_ahead = False
        self._in_log = 0
        _check_is_file(path)
        self._db = _connect(path, "ro" if self.read_only else "rw", CACHE_WAIT * self.is_cache)
        try:
            self._set_up()
            metadata = self._read_metadata()
            self._take()
        except sqlite3.Error as error:
            self._db.close()
            raise _cannot_open(path, error) from error
        except BaseException:
            self._db.close()
            raise
        self.sector_size = metadata.sector_size
        self.sector_count = metadata.sector_count
        self.logically_read_only = metadata.logically_read_only

    def _set_up(self) -> None:
        db = self._db
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "cache_size=-4096"):
            db.execute(f"PRAGMA {pragma}")
        if self.read_only:
            db.execute("BEGIN")  # for ever: what is read next is all that is ever seen
        elif not self.is_cache:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")

    def _take(self) -> None:
        """Change nothing before this: by now it is known to be a disk."""
        db = self._db
        if self.read_only:
            return
        if self.is_cache:
            db.execute("PRAGMA synchronous=NORMAL")
            [[mode]] = db.execute("PRAGMA journal_mode=DELETE")
            if mode == "wal" and has_wal_reset_bug():
                raise DiskOpenError(
                    f"{self.path}: is in WAL mode, which SQLite {sqlite3.sqlite_version} must not "
                    "share",
                    "end what else has the cache open, or use SQLite 3.51.3 or later",
                )
            return
        db.execute("PRAGMA synchronous=FULL")  # a commit is stable
        db.execute("PRAGMA wal_autocheckpoint=0")  # no commit waits for one: see `_checkpoint`
        db.execute("BEGIN EXCLUSIVE")  # and from now on nobody else gets in
        db.execute("COMMIT")

    def _log_ahead(self) -> None:
        """Before the first transaction: a file that is only looked at stays as it is."""
        if not (self._logs_ahead or self.is_cache):
            self._db.execute("PRAGMA journal_mode=WAL").fetchall()
            self._logs_ahead = True

    def _read_metadata(self) -> _Metadata:
        # A database may hold code, as triggers and views. Of ours nothing is left but two tables.
        schema = self._db.execute(
            "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        ).fetchmany(3)
        columns = {
            name: [row[1] for row in self._columns(name)]
            for kind, name in schema
            if kind == "table"
        }
        key = self._db.execute("SELECT name FROM pragma_table_info('sectors') WHERE pk").fetchall()
        if len(schema) != len(columns) or columns != COLUMNS or key != [("sector",)]:
            raise DiskOpenError(f"{self.path}: is an SQLite database, but not of a disk")
        rows = self._db.execute("SELECT metadata FROM meta").fetchmany(2)
        try:
            [[text]] = rows
            metadata = msgspec.json.decode(text, type=_Metadata)
        except (ValueError, TypeError, msgspec.MsgspecError) as error:
            raise DiskOpenError(f"{self.path}: its metadata make no sense") from error
        size, count = metadata.sector_size, metadata.sector_count
        if size & (size - 1) or not 512 <= size <= MAX_SECTOR_SIZE:
            raise DiskOpenError(f"{self.path}: no disk has sectors of {size} bytes")
        if not 0 < count <= MAX_BYTES // size:
            raise DiskOpenError(f"{self.path}: no disk has {count} sectors of {size} bytes")
        return metadata

    def _columns(self, table: str) -> list[Any]:
        return self._db.execute("SELECT * FROM pragma_table_xinfo(?)", [table]).fetchall()

    # -- reading ---------------------------------------------------------------------------------

    def load(self) -> SectorSet:
        """Which sectors there are. Raises `DiskOpenError`."""
        held = SectorSet()
        start = end = 0
        try:
            for (sector,) in self._db.execute(
                "SELECT sector FROM sectors WHERE sector >= 0 AND sector < ? ORDER BY sector",
                [self.sector_count],
            ):
                if sector != end:
                    if end > start:
                        held.add(start, end - start)
                    start = sector
                end = sector + 1
            self._db.execute("PRAGMA shrink_memory")  # all pages were looked at: few are needed
        except sqlite3.Error as error:
            raise _cannot_open(self.path, error) from error
        if end > start:
            held.add(start, end - start)
        return held

    def read(self, sector: int, count: int) -> tuple[memoryview, list[int]]:
        """The range's data, and which sectors of it are missing: there the data are zero.

        Raises `MediumError` for rows that are no sectors.
        """
        with self._mutex:
            try:
                self._roll_back()
                rows = self._db.execute(
                    "SELECT sector, data FROM sectors WHERE sector BETWEEN ? AND ? ORDER BY sector",
                    [sector, sector + count - 1],
                ).fetchall()
            except sqlite3.Error as error:
                raise self._failed(error, "read", sector) from error
        zero = bytes(self.sector_size)
        missing = []
        if len(rows) < count:
            found = dict(rows)
            missing = [number for number in range(sector, sector + count) if number not in found]
            rows = [(number, found.get(number)) for number in range(sector, sector + count)]
        parts = [zero if data is None else data for _, data in rows]
        for at, data in enumerate(parts):
            if type(data) is not bytes or len(data) != self.sector_size:
                raise MediumError(Medium.UNRECOVERED_READ, sector + at)
        return memoryview(b"".join(parts)), missing

    def zeroes(self, sector: int, count: int) -> SectorSet:
        """Which sectors of the range are rows without data."""
        held = SectorSet()
        with self._mutex:
            try:
                self._roll_back()
                for (number,) in self._db.execute(
                    "SELECT sector FROM sectors WHERE sector BETWEEN ? AND ? AND data IS NULL",
                    [sector, sector + count - 1],
                ):
                    held.add(number, 1)
            except sqlite3.Error as error:
                raise self._failed(error, "read", sector) from error
        return held

    def ask(self, query: str, *values: int) -> list[Any]:
        """The rows of a query that changes nothing. Raises `sqlite3.Error`."""
        with self._mutex:
            return self._db.execute(query, values).fetchall()

    # -- writing ---------------------------------------------------------------------------------

    def store(
        self,
        gone: Iterable[tuple[int, int]],
        present: Iterable[Rows],
        *,
        keep_zeroes: bool = True,
        sector_count: int | None = None,
    ) -> None:
        """One transaction: rows that go, then rows that come; it is stable when this returns.

        Without `keep_zeroes` sectors of zeroes are left out. `sector_count` changes the size.
        Where it fails the file is as it was.
        """
        with self._mutex:
            try:
                self._roll_back()
                self._log_ahead()
                self._db.execute("BEGIN IMMEDIATE")
                for start, count in gone:
                    self._db.execute(DELETE, [start, start + count - 1])
                for rows in present:
                    self._store_rows(rows, keep_zeroes)
                if sector_count is not None:
                    self._store_size(sector_count)
                self._db.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):  # the next transaction tries again
                    self._roll_back()
                if isinstance(error, sqlite3.Error):
                    raise self._failed(error, "write") from error
                raise
        if sector_count is not None:
            self.sector_count = sector_count
        if self._in_log > CHECKPOINT and not self.is_cache:
            threading.Thread(target=self._checkpoint, daemon=True).start()

    def _roll_back(self) -> None:
        """End a transaction that failed, again if that failed too: nobody shall see half of it."""
        if self._db.in_transaction and not self.read_only:
            self._db.execute("ROLLBACK")

    def _store_rows(self, rows: Rows, keep_zeroes: bool) -> None:
        start, count, data = rows
        if data is None:
            self._db.execute(ZERO if keep_zeroes else DELETE, [start, start + count - 1])
            return
        self._in_log += len(data)
        verb = "IGNORE" if self.is_cache else "REPLACE"
        self._db.executemany(
            f"INSERT OR {verb} INTO sectors VALUES (?, ?)", self._rows(start, data)
        )
        if not keep_zeroes:
            self._db.execute(
                "DELETE FROM sectors WHERE sector BETWEEN ? AND ? AND data IS NULL",
                [start, start + count - 1],
            )

    def _rows(self, sector: int, data: memoryview) -> Iterator[tuple[int, bytes | None]]:
        size = self.sector_size
        zero = bytes(size)
        for at in range(0, len(data), size):
            row = bytes(data[at : at + size])
            yield sector, None if row == zero else row
            sector += 1

    def _store_size(self, sector_count: int) -> None:
        self._db.execute("DELETE FROM sectors WHERE sector >= ?", [sector_count])
        metadata = _Metadata(self.logically_read_only, sector_count, self.sector_size)
        self._db.execute("UPDATE meta SET metadata = ?", [msgspec.json.encode(metadata).decode()])

    def _checkpoint(self) -> None:
        """Move the log to the database, on a thread of its own: nobody's flush waits for that."""
        with self._mutex:
            if self._in_log <= CHECKPOINT:
                return
            try:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            except sqlite3.Error as error:  # nothing is lost, and the next one tries again
                log.warning("%s: checkpoint: %s", self.path, error)
            self._in_log = 0

    # -- the rest --------------------------------------------------------------------------------

    @property
    def allocated_bytes(self) -> int:
        """Bytes the file system holds for the database and its log."""
        total = 0
        for path in (self.path, f"{self.path}-wal"):
            with suppress(OSError):
                total += os.stat(path).st_blocks * 512
        return total

    def close(self) -> None:
        """Close the database. What was stored stays so, whatever goes wrong here."""
        with self._mutex:
            try:
                self._roll_back()
                if self._logs_ahead:
                    # Then it is one file, and who reads it needs no other.
                    self._db.execute("PRAGMA journal_mode=DELETE").fetchall()
            except sqlite3.Error as error:
                log.warning("%s: close: %s", self.path, error)
            self._db.close()
            self._in_log = 0  # no checkpoint comes after this

    def __del__(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()

    def _failed(self, error: sqlite3.Error, what: str, sector: int | None = None) -> DiskError:
        """The disk's error for one of SQLite."""
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        where = f"{what} {self.path} ({error})"
        if code == sqlite3.SQLITE_FULL:
            return NoSpace(errno.ENOSPC, where)
        if code == sqlite3.SQLITE_READONLY:
            return ReadOnly(where)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_TOOBIG):
            return MediumError(
                Medium.UNRECOVERED_READ if what == "read" else Medium.WRITE_FAULT, sector
            )
        numbers = {
            sqlite3.SQLITE_BUSY: errno.EBUSY,
            sqlite3.SQLITE_LOCKED: errno.EBUSY,
            sqlite3.SQLITE_NOMEM: errno.ENOMEM,
        }
        return IoError(numbers.get(code, errno.EIO), where)


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Whether this version of SQLite must not share a file in WAL mode."""
    repaired = (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
    return (3, 7) <= version < (3, 51, 3) and not repaired


def create(path: str, sector_count: int, sector_size: int, *, is_cache: bool = False) -> bool:
    """Make a file of no sectors held; False if there is one by now, whoever made it.

    It is made in a folder of its own and then given its name, so that nobody ever sees half of it.

    Raises `DiskOpenError`.
    """
    parent = Path(path).parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{Path(path).name}-", dir=parent))
    except OSError as error:
        raise DiskOpenError(f"{path}: cannot be created: {error.strerror}") from error
    try:
        new = folder / "new.dbhd"
        with suppress(FileExistsError):
            _format(new, _Metadata(is_cache, sector_count, sector_size))
            os.link(new, path)
            _sync_folder(parent)
            return True
        return False
    except sqlite3.Error as error:
        raise _cannot_open(path, error) from error
    except OSError as error:
        raise DiskOpenError(f"{path}: cannot be created: {error.strerror}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _format(path: Path, metadata: _Metadata) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        for statement in SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES (?)", [msgspec.json.encode(metadata).decode()])
        db.execute("COMMIT")
    finally:
        db.close()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_is_file(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        hint = "add ;create to make it" if error.errno == errno.ENOENT else ""
        raise DiskOpenError(f"{path}: {error.strerror}", hint) from error
    if not stat.S_ISREG(mode):
        raise DiskOpenError(f"{path}: is not a file", "an SQLite disk is a file")


def _connect(path: str, mode: str, timeout: float) -> sqlite3.Connection:
    """A connection that each thread may use, one at a time."""
    where = f"file:{quote(os.path.abspath(path))}?mode={mode}"
    folder = os.path.dirname(os.path.abspath(path))
    if mode == "ro" and not os.access(folder, os.W_OK) and not os.path.exists(f"{path}-wal"):
        where += "&immutable=1"  # nobody can write it, nor can we make the log's index
    try:
        return sqlite3.connect(
            where, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise _cannot_open(path, error) from error


def _cannot_open(path: str, error: sqlite3.Error) -> DiskOpenError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DiskOpenError(
            f"{path}: in use by another disk or process",
            "readers may share a disk, a writer must have it alone: look for a drivebay",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return DiskOpenError(f"{path}: is not an SQLite database")
    if code == sqlite3.SQLITE_READONLY:
        return DiskOpenError(f"{path}: may only be read", "attach the disk read-only")
    return DiskOpenError(f"{path}: {error}")
