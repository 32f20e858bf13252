"""Images with fields that are not what they should be, sealed again with the right checksums.

The fields are those that the formats declare, so every one is reached.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, get_type_hints

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats import vhd, vhdx
from drivebay.disk.formats.vhd import footer, header
from drivebay.disk.formats.vhdx import structs
from drivebay.suspend import run
from drivebay.wire import Struct
from tests.disk.support import noise, put
from tests.vhd.support import Kept

KIB, MIB = 1 << 10, 1 << 20
VALUES = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 511, 512, 513, 4095, 4096, 4097),
    *(
        sign + (1 << bit)
        for bit in (16, 20, 21, 22, 23, 24, 31, 32, 40, 46, 47, 56, 63)
        for sign in (-1, 0, 1)
    ),
    (1 << 64) - 1,
    (1 << 64) - 512,
)

Seal = Callable[[bytearray], None]


@dataclass(frozen=True)
class Field:
    """A number in the image, and what makes its structure whole again."""

    offset: int
    size: int
    big: bool
    seal: Seal

    def put(self, data: bytearray, value: int) -> None:
        value &= (1 << 8 * self.size) - 1
        order = "big" if self.big else "little"
        data[self.offset : self.offset + self.size] = value.to_bytes(self.size, order)  # type: ignore[arg-type]
        self.seal(data)

    def get(self, data: bytearray) -> int:
        order = "big" if self.big else "little"
        part = data[self.offset : self.offset + self.size]
        return int.from_bytes(part, order)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sample:
    """A good image, its fields, and what opens it."""

    data: bytes
    fields: tuple[Field, ...]
    module: Any
    opener: Callable[..., Disk]


def nothing(data: bytearray) -> None:
    """It has no checksum."""


def declared(kind: type[Struct], at: int, seal: Seal = nothing, big: bool = False) -> list[Field]:
    """The numbers of a structure, and the first eight bytes of its strings."""
    hints = get_type_hints(kind, include_extras=True)
    found, offset = [], at
    for item in fields(kind):  # type: ignore[arg-type]
        size = struct.calcsize("<" + hints[item.name].__metadata__[0])
        found.append(Field(offset, min(size, 8), big, seal))
        offset += size
    return found


def sealed(at: int, length: int) -> Seal:
    def seal(data: bytearray) -> None:
        data[at : at + length] = structs.seal(bytes(data[at : at + length]))

    return seal


def content(disk: Disk) -> bytes:
    data = bytearray(disk.byte_count)
    run(disk.read(0, [memoryview(data)]))
    return bytes(data)


@cache
def vhdx_sample(differencing: bool) -> Sample:
    """A small image whose log is not empty."""
    parent_store, store = RamDisk(4096), RamDisk(4096)
    options: dict[str, Any] = {"block_size": MIB}
    vhdx.create(parent_store, 3 * MIB, **options)
    if differencing:
        parent = vhdx.open_vhdx(parent_store, read_only=True)
        options |= {"parent": parent, "parent_path": "parent.vhdx"}
    vhdx.create(store, 3 * MIB, **options)
    image = vhdx.open_vhdx(Kept(store))
    put(image, 100, noise(MIB))
    run(image.flush())
    data = content(store)
    metadata, table, log = 2 * MIB, 3 * MIB, MIB
    found: list[Field] = []
    for at in structs.HEADER_AT:
        found += declared(structs.Header, at, sealed(at, structs.HEADER_SIZE))
    for at in structs.REGIONS_AT:
        seal = sealed(at, structs.REGIONS_SIZE)
        found += declared(structs.RegionHeader, at, seal)
        for number in range(2):
            found += declared(structs.RegionEntry, at + 16 + 32 * number, seal)
    found += declared(structs.MetadataHeader, metadata)
    for number in range(6 if differencing else 5):
        found += declared(structs.MetadataEntry, metadata + 32 * (number + 1))
    items = metadata + 64 * KIB
    found += declared(structs.FileParameters, items)
    found += [Field(items + at, 8, False, nothing) for at in (8, 16)]
    found += [Field(items + at, 4, False, nothing) for at in (32, 40)]
    if differencing:
        found += declared(structs.LocatorHeader, items + 48)
        found += declared(structs.LocatorEntry, items + 68)
        found += declared(structs.LocatorEntry, items + 80)
    found += [Field(table + 8 * at, 8, False, nothing) for at in (0, 1, 2, 3, 4096, 8192)]
    length = structs.LogEntry.unpack(data, log).entry_length
    seal = sealed(log, length)
    found += declared(structs.LogEntry, log, seal)
    found += declared(structs.DataDescriptor, log + 64, seal)
    found += declared(structs.DataDescriptor, log + 96, seal)
    found += declared(structs.DataSector, log + 4096, seal)
    return Sample(data, tuple(found), vhdx, vhdx.open_vhdx)


@cache
def vhd_sample(kind: vhd.DiskType) -> Sample:
    parent_store, store = RamDisk(4096), RamDisk(4096)
    options: dict[str, Any] = {"kind": kind}
    if kind != vhd.DiskType.FIXED:
        options["block_size"] = 64 * KIB
    if kind == vhd.DiskType.DIFFERENCING:
        vhd.create(parent_store, 300 * KIB)
        parent = vhd.open_vhd(parent_store, read_only=True)
        options |= {"parent": parent, "parent_path": "parent.vhd"}
    vhd.create(store, 300 * KIB, **options)
    image = vhd.open_vhd(Kept(store))
    put(image, 100, noise(64 * KIB))
    image.close()
    data = content(store)

    def seal_at(at: int, kind: Any) -> Seal:
        def seal(data: bytearray) -> None:
            data[at : at + kind.size] = kind.unpack(data, at).sealed().pack()

        return seal

    found: list[Field] = []
    last = len(data) - footer.FOOTER_SIZE
    found += declared(footer.Footer, last, seal_at(last, footer.Footer), big=True)
    if kind != vhd.DiskType.FIXED:
        found += declared(footer.Footer, 0, seal_at(0, footer.Footer), big=True)
        seal = seal_at(512, header.DynamicHeader)
        found += declared(header.DynamicHeader, 512, seal, big=True)
        found += declared(header.Locator, 512 + 576, seal, big=True)
        table = header.DynamicHeader.unpack(data, 512).table_offset
        found += [Field(table + 4 * at, 4, True, nothing) for at in range(5)]
    return Sample(data, tuple(found), vhd, vhd.open_vhd)


def samples() -> list[Sample]:
    return [
        vhdx_sample(False),
        vhdx_sample(True),
        *(vhd_sample(kind) for kind in vhd.DiskType),
    ]


def exercise(sample: Sample, data: bytearray) -> None:
    """Whatever is in the image: it is refused, or works, or an operation is refused."""
    store = RamDisk(-(-len(data) // 512) * 512)
    run(store.write(0, [memoryview(data).toreadonly()]))
    sample.module.check(Kept(store))
    for read_only in (True, False):
        try:
            image = sample.opener(Kept(store), read_only=read_only)
        except DiskOpenError as error:
            assert "\n" not in str(error)
            continue
        try:
            _use(image)
        finally:
            with contextlib.suppress(DiskError):
                image.close()


def _use(image: Disk) -> None:
    image.check_geometry()
    assert image.details
    last = image.sector_count - 1
    buffer = [memoryview(bytearray(image.sector_size))]
    for operation in (
        lambda: image.read(0, buffer),
        lambda: image.read(last, buffer),
        lambda: image.extents(0, image.sector_count),
        lambda: image.write(0, buffer),
        lambda: image.write(last, buffer),
        lambda: image.unmap(0, image.sector_count // 2 + 1),
        lambda: image.write_zeroes(last, 1),
        image.flush,
        lambda: image.resize(image.sector_count + 8),
    ):
        with contextlib.suppress(DiskError):
            run(operation())
