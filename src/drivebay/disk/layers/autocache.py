"""A read cache that outlives the process, found by a key (openvmm.md, section 4.2)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.layers.sql import SqlLayer
from drivebay.disk.layers.sqlite_file import SqliteFile, create

__all__ = ["ROOT", "open_cache"]

ROOT: Final = "DRIVEBAY_AUTO_CACHE_PATH"
"""The environment variable that names the folder of all caches."""


def open_cache(below: Disk, key: str = "") -> SqlLayer:
    """The cache of `below`, made if it is missing; without a `key` it is the hex of the disk's id.

    Any number of processes may have it open, and each keeps what it reads for all that open it
    later. Raises `DiskOpenError`.
    """
    root = os.environ.get(ROOT, "")
    if not root:
        raise DiskOpenError(f"autocache: {ROOT} is not set", "it names the folder of all caches")
    if not key:
        if below.disk_id is None:
            raise DiskOpenError(
                f"autocache: cannot cache a {below.kind} without a disk ID",
                "name the cache yourself: autocache:KEY:DISK",
            )
        key = below.disk_id.hex()
    if "/" in key or key in (".", ".."):
        raise DiskOpenError(f"autocache: {key!r} is no name of a folder")
    path = Path(root) / key / "cache.dbhd"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskOpenError(f"{path}: cannot be created: {error.strerror}") from error
    if not path.exists():
        create(str(path), below.sector_count, below.sector_size, is_cache=True)
    file = SqliteFile(str(path), "cache")
    if (file.sector_count, file.sector_size) != (below.sector_count, below.sector_size):
        file.close()
        raise DiskOpenError(
            f"{path}: holds {file.sector_count} sectors of {file.sector_size} bytes, the disk has "
            f"{below.sector_count} of {below.sector_size}",
            "it is another disk's cache: choose another key, or remove it",
        )
    try:
        return SqlLayer(file)
    except BaseException:
        file.close()
        raise
