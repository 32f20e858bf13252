"""Every VHD and VHDX image that the shared suites run on, on a disk in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.filters.base import Filter
from drivebay.disk.formats import vhd, vhdx
from drivebay.disk.formats.chain import Image
from drivebay.disk.formats.problem import Problem, Severity
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.suspend import run
from tests.disk.support import fill

MEBIBYTE = 1 << 20


class Kept(Filter):
    """`below`, which outlives the images that lie on it."""

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Form:
    """A form of image: how it is made and opened on a disk."""

    module: Any
    size: int
    options: dict[str, Any] = field(default_factory=dict)
    below_sector: int = 512
    differencing: bool = False

    def store(self) -> RamDisk:
        """A small disk for an image."""
        return RamDisk(max(4096, self.below_sector), sector_size=self.below_sector)

    def create(self, store: Disk, parent: Image | None = None) -> None:
        options = dict(self.options)
        if parent is not None:
            options |= {"parent": parent, "parent_path": "parent"}
        self.module.create(store, self.size, **options)

    def open(self, store: Disk, read_only: bool = False) -> Image:
        opener = vhd.open_vhd if self.module is vhd else vhdx.open_vhdx
        image = opener(Kept(store), read_only=read_only)
        assert isinstance(image, Image)
        return image

    def check(self, store: Disk) -> list[Problem]:
        problems = self.module.check(store)
        assert isinstance(problems, list)
        return problems

    def base(self) -> Form:
        """The form of a parent."""
        options = {k: v for k, v in self.options.items() if k != "kind"}
        return Form(self.module, self.size, options, self.below_sector)


FORMS = {
    "vhd-fixed": Form(vhd, 200 << 10, {"kind": vhd.DiskType.FIXED}),
    "vhd-fixed-on-4k": Form(vhd, 200 << 10, {"kind": vhd.DiskType.FIXED}, 4096),
    "vhd-dynamic": Form(vhd, 200 << 10, {"block_size": 1 << 16}),
    "vhd-dynamic-on-4k": Form(vhd, 200 << 10, {"block_size": 1 << 15}, 4096),
    "vhd-differencing": Form(
        vhd,
        200 << 10,
        {"block_size": 1 << 16, "kind": vhd.DiskType.DIFFERENCING},
        differencing=True,
    ),
    "vhdx-fixed": Form(vhdx, 5 << 18, {"block_size": MEBIBYTE, "fixed": True}),
    "vhdx-dynamic": Form(vhdx, 5 << 18, {"block_size": MEBIBYTE}),
    "vhdx-dynamic-on-4k": Form(vhdx, 5 << 18, {"block_size": MEBIBYTE}, 4096),
    "vhdx-4k": Form(vhdx, 5 << 18, {"block_size": MEBIBYTE, "sector_size": 4096}),
    "vhdx-differencing": Form(vhdx, 5 << 18, {"block_size": MEBIBYTE}, differencing=True),
}


class Chain:
    """An image of a form and, if it is a differencing one, a parent with data; made once, opened
    often.
    """

    def __init__(self, form: Form, filled: bool = True) -> None:
        self.form = form
        self.content = bytes(form.size)
        """What the disk reads as when it is new."""
        self.below: RamDisk | None = None
        parent = None
        if form.differencing:
            self.below = form.store()
            form.base().create(self.below)
            parent = form.open(self.below)
            if filled:
                self.content = fill(parent, seed=99)
            parent.close()
            parent = form.open(self.below, read_only=True)
        self.store = form.store()
        form.create(self.store, parent)
        if parent is not None:
            parent.close()

    def open(self, store: Disk | None = None, read_only: bool = False) -> Disk:
        """The image on its parent; `store` may stand in for what it lies on."""
        top = self.form.open(self.store if store is None else store, read_only)
        if self.below is None:
            return top
        parent = self.form.open(self.below, read_only=True)
        top.check_parent(parent)
        return LayeredDisk([top, parent], read_only=read_only)

    def damage(self, store: Disk | None = None) -> list[Problem]:
        """What `check` finds that is worse than lost space."""
        problems = self.form.check(self.store if store is None else store)
        return [problem for problem in problems if problem.severity is Severity.DAMAGE]


def content(disk: Disk) -> bytes:
    data = bytearray(disk.byte_count)
    run(disk.read(0, [memoryview(data)]))
    return bytes(data)


class Expected:
    """What the disk may read as: these bytes, but for sectors that a failed operation touched."""

    def __init__(self, data: bytes, size: int) -> None:
        self.size = size
        self.data = bytearray(data)
        self.open: dict[int, set[bytes]] = {}

    def set(self, sector: int, data: bytes, certain: bool) -> None:
        start, size = sector * self.size, self.size
        for at in range(0, len(data) if self.open or not certain else 0, size):
            number = (start + at) // size
            if certain:
                self.open.pop(number, None)
            else:
                old = bytes(self.data[start + at : start + at + size])
                self.open.setdefault(number, {old}).add(data[at : at + size])
        if certain:
            self.data[start : start + len(data)] = data

    def check(self, found: bytes) -> None:
        """What is found is certain from then on."""
        for sector, allowed in self.open.items():
            where = slice(sector * self.size, (sector + 1) * self.size)
            assert found[where] in allowed, f"sector {sector}"
            self.data[where] = found[where]
        self.open.clear()
        assert found == self.data
