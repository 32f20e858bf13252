"""The folder that keeps what was fetched and built, shared safely by any number of processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from drivebay.guests.errors import GuestError

Progress = Callable[[str], None]
"""Told one short line at the start of each step that may take a while."""


def silent(_line: str) -> None:
    """Progress that nobody watches."""


def cache_dir() -> Path:
    """Return $DRIVEBAY_CACHE, else $XDG_CACHE_HOME/drivebay, else ~/.cache/drivebay; created."""
    if chosen := os.environ.get("DRIVEBAY_CACHE"):
        folder = Path(chosen)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(base) / "drivebay"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestError(
            f"cannot create the cache folder {folder}: {error.strerror}",
            "set DRIVEBAY_CACHE to a folder you may write to",
        ) from error
    return folder.absolute()


def digest(*parts: object) -> str:
    """Return a short name for `parts` that changes whenever one of them does."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def lock(name: str, progress: Progress = silent) -> Iterator[None]:
    """Hold the cache's lock `name`; waits while another process holds it."""
    folder = cache_dir() / "locks"
    folder.mkdir(exist_ok=True)
    with open(folder / name, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that prepares {name}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file releases the lock, also when this process is killed


def build_once(name: str, build: Callable[[Path], None], progress: Progress = silent) -> Path:
    """Return the cache entry `name` (a file or a folder), made by `build(path)` if missing.

    `build` works on a temporary path that is renamed when it is complete, so an entry that
    exists is whole. Raises GuestError when the disk is full or the folder not writable.
    """
    entry = cache_dir() / name
    if entry.exists():
        return entry
    with lock(name, progress):
        if entry.exists():
            return entry
        for leftover in entry.parent.glob(f".{name}.*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=entry.parent))
        try:
            build(workshop / name)
            os.rename(workshop / name, entry)
        except OSError as error:
            raise cache_error(entry, error) from error
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
    return entry


def cache_error(path: Path, error: OSError) -> GuestError:
    """Return the GuestError for an `error` met while writing below `path`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return GuestError(
            f"no space left in {path.parent}",
            "free some, or set DRIVEBAY_CACHE to a folder on another file system",
        )
    return GuestError(f"cannot write {path}: {reason}", "set DRIVEBAY_CACHE to another folder")
