"""``kill -9`` in the middle of writing, often: what was flushed is there, and the image is
in order. $DRIVEBAY_KILLS says how many times for each format.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

import pytest

from drivebay.cli.main import main
from drivebay.disk.spec import open_disk
from tests.disk.support import get
from tests.formats.writer import BLOCK, BLOCKS, operations

KILLS: Final = int(os.environ.get("DRIVEBAY_KILLS", "20"))
SIZE: Final = f"{BLOCK * BLOCKS}b"

Check = Callable[[str], None]


@pytest.fixture(scope="module")
def writer() -> Iterator[tuple[IO[str], IO[str]]]:
    command = [sys.executable, "-m", "tests.formats.writer"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process.stdin, process.stdout
        process.stdin.close()


def create(*arguments: str) -> None:
    assert main(["disk", "create", *arguments]) == 0


def image(path: str) -> str:
    create(path, SIZE)
    return path


def sqldiff(path: str) -> str:
    create("base.img", SIZE)
    open_disk(f"sqldiff:{path};create:base.img").close()
    return f"sqldiff:{path}:base.img"


def sql(path: str) -> str:
    open_disk(f"sql:{path};create={SIZE}").close()
    return f"sql:{path}"


def in_order(path: str) -> None:
    """Whatever was allocated and not yet used may be lost; nothing may be wrong."""
    assert main(["disk", "check", path]) in (0, 3)


def database_in_order(path: str) -> None:
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


CASES: Final[dict[str, tuple[Callable[[str], str], Check]]] = {
    "raw.img": (image, lambda path: None),
    "image.qcow2": (image, in_order),
    "image.vhd": (image, in_order),
    "image.vhdx": (image, in_order),
    "top.dbhd": (sqldiff, database_in_order),
    "alone.dbhd": (sql, database_in_order),
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_flushed_outlives_a_kill(
    name: str,
    writer: tuple[IO[str], IO[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    make, check = CASES[name]
    spec = make(name)
    held = {block: {0} for block in range(BLOCKS)}
    for seed in range(1, KILLS + 1):
        absolute = spec.replace(name, f"{tmp_path}/{name}").replace("base", f"{tmp_path}/base")
        flushed = kill(writer, seed, absolute)
        allowed = what_may_be(held, seed, flushed)
        disk = open_disk(spec, read_only=True)
        data = get(disk, 0, disk.sector_count)
        disk.close()
        for block, values in allowed.items():
            held[block] = values_in(data, block)
            assert held[block] <= values, f"kill {seed}, block {block}"
        check(name)


def kill(writer: tuple[IO[str], IO[str]], seed: int, spec: str) -> int:
    """Let a writer work, kill it after some flushes, and return the last that ended well."""
    commands, answers = writer
    commands.write(f"{seed} {spec}\n")
    commands.flush()
    process = int(answers.readline())
    told: list[str] = []
    for _ in range(random.Random(-seed).randint(1, 8)):
        told.append(answers.readline().strip())
    os.kill(process, signal.SIGKILL)
    told += takewhile(lambda line: line != "dead", (line.strip() for line in answers))
    assert all(line.isdigit() for line in told), told
    return int(told[-1])


def what_may_be(held: dict[int, set[int]], seed: int, flushed: int) -> dict[int, set[int]]:
    """By block: what was there when the flush began, and all that was written since."""
    allowed = {block: set(values) for block, values in held.items()}
    for number, (name, block, value) in enumerate(operations(seed)):
        if name == "flush":
            if number > flushed:  # it was not told of, so nothing came after it
                return allowed
        elif number < flushed:
            allowed[block] = {value}
        else:
            allowed[block].add(value)
    raise AssertionError("a writer has no end")


def values_in(data: bytes, block: int) -> set[int]:
    words = memoryview(data)[block * BLOCK : (block + 1) * BLOCK].cast("Q")
    return set(words)
