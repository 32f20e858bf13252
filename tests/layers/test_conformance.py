"""Hostile 4.7, section 5: the public suite over every way to lay layers on each other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Disk
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.operations import commit, snapshot
from drivebay.disk.layers.ram import RamLayer
from drivebay.disk.layers.sql import SqlLayer, open_alone, open_over
from drivebay.disk.layers.stack import Place
from drivebay.suspend import run
from tests.disk.support import fill

SECTORS = 20

Make = Callable[[Path, int], Disk]

_numbers = itertools.count()


def ram(size: int) -> RamDisk:
    return RamDisk(SECTORS * size, sector_size=size)


def filled(size: int) -> RamDisk:
    base = ram(size)
    fill(base)
    return base


def ram_layer(size: int) -> RamLayer:
    return RamLayer(SECTORS * size, sector_size=size)


def new(path: Path) -> str:
    return str(path / f"{next(_numbers)}.dbhd")


def alone(path: Path, size: int) -> SqlLayer:
    return open_alone(new(path), SECTORS * size, size, read_only=False)


def sql_over(path: Path, below: Disk) -> SqlLayer:
    return open_over(new(path), below, create=True, read_only=False)


def sql(path: Path, size: int) -> Disk:
    return LayeredDisk([alone(path, size)])


def sqldiff(path: Path, size: int) -> Disk:
    base = filled(size)
    return LayeredDisk.over(sql_over(path, base), base)


def sqldiff_read_only(path: Path, size: int) -> Disk:
    base = filled(size)
    name = new(path)
    open_over(name, base, create=True, read_only=False).close()
    return LayeredDisk.over(
        open_over(name, base, create=False, read_only=True), base, read_only=True
    )


def cached(path: Path, size: int) -> Disk:
    below = LayeredDisk(
        [Place(ram_layer(size), read_cache=True), DiskLayer(filled(size))], read_only=True
    )
    return LayeredDisk.over(ram_layer(size), below)


def write_through_cache(path: Path, size: int) -> Disk:
    cache = Place(ram_layer(size), read_cache=True, write_through=True)
    return LayeredDisk([cache, DiskLayer(filled(size))])


def write_through_sql(path: Path, size: int) -> Disk:
    base = filled(size)
    return LayeredDisk([Place(sql_over(path, base), write_through=True), DiskLayer(base)])


def write_through_shorter(path: Path, size: int) -> Disk:
    short = RamDisk(SECTORS // 2 * size, sector_size=size)
    return LayeredDisk([Place(ram_layer(size), write_through=True), DiskLayer(short)])


def after_snapshot(path: Path, size: int) -> Disk:
    disk = LayeredDisk.over(ram_layer(size), filled(size))
    run(snapshot(disk, ram_layer(size)))
    return disk


def after_a_weaker_snapshot(path: Path, size: int) -> Disk:
    """The disk has promised zeroes and stable writes; the new layer alone would give neither."""
    disk = LayeredDisk.over(ram_layer(size), filled(size))
    run(snapshot(disk, sql_over(path, disk)))
    return disk


def after_commit(path: Path, size: int) -> Disk:
    disk = LayeredDisk.over(ram_layer(size), filled(size))
    fill(disk, 7)
    run(snapshot(disk, sql_over(path, disk)))
    fill(disk, 8)
    run(commit(disk)).close()
    return disk


DISKS: dict[str, Make] = {
    "sql": sql,
    "sql-layer-alone": alone,
    "sqldiff": sqldiff,
    "sqldiff-read-only": sqldiff_read_only,
    "cached": cached,
    "write-through-cache": write_through_cache,
    "write-through-sql": write_through_sql,
    "write-through-shorter": write_through_shorter,
    "after-snapshot": after_snapshot,
    "after-a-weaker-snapshot": after_a_weaker_snapshot,
    "after-commit": after_commit,
}


@pytest.mark.parametrize("name", DISKS)
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[name for name, _ in checks()])
def test_disk_passes(name: str, check: Check, tmp_path: Path) -> None:
    for size in (512, 65536):
        check(partial(DISKS[name], tmp_path, size))
