"""The public suite over qcow2 images of every sort, on disks of any sector size."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Disk
from drivebay.disk.formats.qcow2 import Qcow2Disk, create
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from tests.disk.support import fill
from tests.qcow2.support import SECTOR, blank

SIZE = 200 * SECTOR


def image(**options: int) -> Disk:
    return Qcow2Disk(blank(SIZE, **options))


def on_sectors(size: int) -> Disk:
    disk = RamDisk(size, sector_size=size)
    create(disk, SIZE, cluster_size=4096)
    return Qcow2Disk(disk)


def read_only() -> Disk:
    disk = blank(SIZE)
    written = Qcow2Disk(disk)
    fill(written)
    written.close()
    return Qcow2Disk(disk, read_only=True)


def over(**options: int) -> Disk:
    below = RamDisk(SIZE - 7 * SECTOR)
    fill(below)
    return LayeredDisk([Qcow2Disk(blank(SIZE, **options)), DiskLayer(below)])


DISKS: dict[str, Callable[[], Disk]] = {
    "512": lambda: image(cluster_size=512),
    "64k": image,
    "2m": lambda: image(cluster_size=2 << 20),
    "version-2": lambda: image(version=2, cluster_size=4096),
    "refcounts-1": lambda: image(refcount_bits=1, cluster_size=512),
    "on-4096": lambda: on_sectors(4096),
    "on-65536": lambda: on_sectors(65536),
    "read-only": read_only,
    "over-512": lambda: over(cluster_size=512),
    "over-64k": over,
    "over-version-2": lambda: over(version=2, cluster_size=4096),
}


@pytest.mark.parametrize("name", DISKS)
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[name for name, _ in checks()])
def test_image_passes(name: str, check: Check) -> None:
    check(DISKS[name])
