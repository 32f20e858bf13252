"""The cache is whole and made once, whoever asks for it and whatever is killed."""

from __future__ import annotations

import errno
import multiprocessing
import time
from pathlib import Path

import pytest

from drivebay.guests.cache import build_once, cache_dir
from drivebay.guests.errors import GuestError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def slow_build(path: Path) -> None:
    with open(cache_dir() / "builds", "a") as log:
        log.write("built\n")
    path.mkdir()
    time.sleep(0.2)
    (path / "file").write_text("whole")


def take_entry() -> None:
    assert (build_once("entry", slow_build) / "file").read_text() == "whole"


def test_two_processes_build_an_entry_once(own_cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_entry) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (own_cache / "builds").read_text() == "built\n"


def test_a_failed_build_leaves_nothing_and_may_be_tried_again(own_cache: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise GuestError("no network")

    with pytest.raises(GuestError, match="no network"):
        build_once("entry", fail)
    assert [path.name for path in own_cache.iterdir()] == ["locks"]
    assert build_once("entry", slow_build).is_dir()


def test_leftovers_of_a_killed_build_go(own_cache: Path) -> None:
    (cache_dir() / ".entry.abc" / "entry").mkdir(parents=True)
    build_once("entry", slow_build)
    assert not (own_cache / ".entry.abc").exists()


def test_a_full_disk_is_said_with_a_hint() -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with pytest.raises(GuestError, match=r"no space left in .*\(free some"):
        build_once("entry", full)


def test_a_folder_that_cannot_be_made_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("DRIVEBAY_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(GuestError, match="cannot create the cache folder"):
        cache_dir()
