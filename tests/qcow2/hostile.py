"""Good images of every sort to spoil, and all that a user may do to one; for the fuzzer, too."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.qcow2 import Qcow2Disk, check
from drivebay.disk.formats.qcow2.header import Header
from drivebay.suspend import run
from tests.disk.support import noise
from tests.qcow2.support import KIB, SECTOR, Guest, Ram, blank, content, is_clean, of_bytes

SIZE = 256 * KIB
CLUSTER = 4096
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = (1 << 56) - 512
VALUES = (0, 1, 511, 512, 4096, 8192, 1 << 31, (1 << 32) - 1, 1 << 55, 1 << 62, 3 << 62, 2**64 - 1)


@dataclass(frozen=True)
class Sample:
    """A good image, and the places in it that are worth spoiling."""

    data: bytes
    places: tuple[int, ...]


def image(**options: int) -> Ram:
    disk = blank(SIZE, **{"cluster_size": CLUSTER, **options})
    guest = Guest(Qcow2Disk(disk), seed=1)
    for _ in range(30):
        guest.step()
    guest.disk.close()
    return disk


def patched(offset: int, data: bytes, base: Ram | None = None) -> Ram:
    raw = content(base or image())
    raw[offset : offset + len(data)] = data
    return of_bytes(raw)


def number_at(raw: bytes | bytearray, offset: int) -> int:
    [number] = struct.unpack_from(">Q", raw, offset)
    return int(number)


def first_entry(disk: Ram, level: int) -> int:
    """Where the entry of guest cluster 0 is, in the L1 or the L2 table."""
    raw = content(disk)
    l1 = Header.unpack(raw).l1_table_offset
    return l1 if level == 1 else number_at(raw, l1) & OFFSET


def compressed(data: bytes, base: Ram | None = None) -> Ram:
    """Guest cluster 0 is `data`, which should be compressed; its refcount is right."""
    base = base or image()
    raw = content(base)
    at = len(raw) + -len(raw) % CLUSTER
    raw = raw.ljust(at, b"\0") + data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
    raw += bytes(-len(raw) % CLUSTER)
    sectors = max(0, -(-len(data) // SECTOR) - 1)
    struct.pack_into(">Q", raw, first_entry(base, 2), COMPRESSED | sectors << 62 - 4 | at)
    disk = of_bytes(raw)
    check(disk, repair=True)
    is_clean(disk)
    return disk


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-12)
    return packer.compress(data) + packer.flush()


def with_snapshot() -> Ram:
    """One snapshot, of what is there now."""
    raw = content(image())
    raw += bytes(-len(raw) % CLUSTER)
    header = Header.unpack(raw)
    l1_at, table_at = len(raw), len(raw) + CLUSTER
    for entry in range(header.l1_size):
        place = header.l1_table_offset + entry * 8
        l2 = number_at(raw, place) & OFFSET
        struct.pack_into(">Q", raw, place, l2)
        for at in range(l2, l2 + CLUSTER, 8) if l2 else ():
            struct.pack_into(">Q", raw, at, number_at(raw, at) & ~COPIED)
    raw += raw[header.l1_table_offset :][:CLUSTER]
    entry_ = struct.pack(">QIHHIIQII", l1_at, header.l1_size, 1, 4, 0, 0, 0, 0, 16)
    raw += (entry_ + struct.pack(">QQ", 0, SIZE) + b"1shot").ljust(CLUSTER, b"\0")
    header.nb_snapshots, header.snapshots_offset = 1, table_at
    raw[: Header.size] = header.pack()
    disk = of_bytes(raw)
    check(disk, repair=True)
    is_clean(disk)
    return disk


def with_subclusters() -> Ram:
    disk = image(cluster_size=16 * KIB)
    return patched(72, struct.pack(">Q", 1 << 4), disk)


def samples() -> list[Sample]:
    """One image of each sort."""
    disks = [
        image(),
        image(version=2),
        image(cluster_size=512),
        image(refcount_bits=1),
        image(refcount_bits=64),
        compressed(deflated(noise(64) * 64)),
        with_snapshot(),
        with_subclusters(),
    ]
    return [_sample(bytes(content(disk))) for disk in disks]


def _sample(data: bytes) -> Sample:
    header = Header.unpack(data)
    tables = [header.refcount_table_offset, header.l1_table_offset, header.snapshots_offset]
    tables += [number_at(data, at) & OFFSET for at in tables[:2]]
    places = [*range(0, 128, 4)]
    places += [at + within for at in tables if at for within in range(0, 128, 8)]
    return Sample(data, tuple(place for place in places if place + 8 <= len(data)))


def use(disk: Ram) -> None:
    """All that a user may do; what is raised is a `DiskError` or a `DiskOpenError`."""
    for snapshot in ("shot", ""):
        try:
            check(disk)
            opened = Qcow2Disk(disk, snapshot=snapshot)
        except DiskOpenError:
            continue
        last = opened.sector_count - 1
        for sector in (0, 9, min(500, last), last):
            _try(opened.read(sector, [memoryview(bytearray(SECTOR))]))
            _try(opened.write(sector, [memoryview(noise(SECTOR))]))
            _try(opened.write_zeroes(sector, 1))
            _try(opened.unmap(sector, min(64, last - sector)))
            _try(opened.extents(sector, 1))
            _try(opened.flush())
        _try(opened.resize(opened.sector_count + 100))
        try:
            opened.close()
        except DiskError:
            continue


def _try(operation: Coroutine[Any, Any, Any]) -> None:
    try:
        run(operation)
    except DiskError:
        return
