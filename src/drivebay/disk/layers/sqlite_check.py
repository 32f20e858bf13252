"""What is wrong with a ``.dbhd`` file, for people who ask. Everything here may block."""

from __future__ import annotations

import sqlite3
from typing import Final

from drivebay.disk.formats.problem import Problem, Severity
from drivebay.disk.layers.sqlite_file import SqliteFile

__all__ = ["check"]

MOST_PROBLEMS: Final = 100
OUTSIDE: Final = "SELECT sector FROM sectors WHERE sector < 0 OR sector >= ? LIMIT ?"
NO_SECTOR: Final = (
    "SELECT sector FROM sectors WHERE data IS NOT NULL AND "
    "(typeof(data) != 'blob' OR length(data) != ?) LIMIT ?"
)


def check(path: str) -> list[Problem]:
    """What SQLite says of the database, and rows that are no sectors of its disk.

    The file is only read. Raises `DiskOpenError` where it is no disk at all.
    """
    file = SqliteFile(path, "read")
    try:
        return _problems(file)
    finally:
        file.close()


def _problems(file: SqliteFile) -> list[Problem]:
    found = []
    try:
        for (text,) in file.ask(f"PRAGMA integrity_check({MOST_PROBLEMS})"):
            if text != "ok":
                found.append(Problem(Severity.DAMAGE, " ".join(str(text).split())))
        for (sector,) in file.ask(NO_SECTOR, file.sector_size, MOST_PROBLEMS):
            found.append(Problem(Severity.DAMAGE, f"row {sector} is no sector"))
        for (sector,) in file.ask(OUTSIDE, file.sector_count, MOST_PROBLEMS):
            found.append(Problem(Severity.LEAK, f"row {sector} lies outside of the disk"))
    except sqlite3.Error as error:
        found.append(Problem(Severity.DAMAGE, str(error)))
    return found
