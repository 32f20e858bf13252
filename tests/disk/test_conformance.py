"""Hostile 4.7, section 5: the public suite over every disk there is, at every sector size."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from drivebay.disk.backends.file import CACHE_MODES, FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.conformance import Check, Factory, check_filter, checks
from drivebay.disk.contract import Buffers, Disk, Unmap
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.filters.base import FORWARDED, Filter
from drivebay.disk.filters.cache import Cache
from drivebay.disk.filters.crypt import Crypt
from drivebay.disk.filters.delay import Delay
from drivebay.disk.filters.discard import Discard
from drivebay.disk.filters.guarded import Guarded
from drivebay.disk.filters.latency import Fixed
from drivebay.disk.filters.payload import Payload
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.disk.filters.record import Record
from drivebay.disk.filters.stop_on_error import StopOnError
from drivebay.disk.filters.striped import Striped
from drivebay.disk.filters.throttle import Limits, Throttle
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.lab.trace.disks import TracedDisk
from drivebay.suspend import run
from drivebay.testing import PowerCutDisk, PuppetDisk, RecordingDisk
from tests.disk.support import fill

SECTORS = 20
SIZES = (512, 4096, 65536)

Make = Callable[[Path, int], Disk]


def file(cache: str, read_only: bool = False) -> Make:
    def make(path: Path, sector_size: int) -> Disk:
        image = path / "image"
        image.unlink(missing_ok=True)
        image.write_bytes(bytes(range(1, 251)) * (sector_size * SECTORS // 250 + 1))
        with image.open("r+b") as opened:
            opened.truncate(sector_size * SECTORS)
        return FileDisk(str(image), cache=cache, sector_size=sector_size, read_only=read_only)

    return make


def ram(path: Path, sector_size: int) -> RamDisk:
    return RamDisk(SECTORS * sector_size, sector_size=sector_size)


def layered(path: Path, sector_size: int) -> LayeredDisk:
    base = ram(path, sector_size)
    fill(base)
    return LayeredDisk.over(RamLayer(base.byte_count, sector_size=sector_size), base)


def taller(path: Path, sector_size: int) -> LayeredDisk:
    """A top layer with more sectors than what it stands on (openvmm.md, bug 5)."""
    base = RamDisk(SECTORS // 2 * sector_size, sector_size=sector_size)
    fill(base)
    return LayeredDisk.over(RamLayer(SECTORS * sector_size, sector_size=sector_size), base)


def three_layers(path: Path, sector_size: int) -> LayeredDisk:
    below = taller(path, sector_size)
    return LayeredDisk.over(RamLayer(below.byte_count, sector_size=sector_size), below)


def disk_on_top(path: Path, sector_size: int) -> LayeredDisk:
    return LayeredDisk([DiskLayer(ram(path, sector_size)), DiskLayer(ram(path, sector_size))])


def read_only_layers(path: Path, sector_size: int) -> LayeredDisk:
    base = ram(path, sector_size)
    fill(base)
    top = RamLayer(base.byte_count, sector_size=sector_size)
    return LayeredDisk.over(top, base, read_only=True)


def layer_alone(path: Path, sector_size: int) -> RamLayer:
    return RamLayer(SECTORS * sector_size, sector_size=sector_size)


def crypt(below: Disk) -> Crypt:
    return Crypt(below, bytes(range(64)))


def discarding(behaviour: Unmap) -> Make:
    return lambda path, size: Discard(ram(path, size), behaviour)


def cached(mode: str) -> Make:
    return lambda path, sector_size: Cache(ram(path, sector_size), mode)


def guarded(below: Disk) -> Guarded:
    return Guarded(below, Prwrap(below).reservations.of(b"host", 1))


def recorded(below: Disk) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        return Record(below, f"{folder}/log")  # which needs no name once it is open


def striped(path: Path, sector_size: int) -> Striped:
    disks = [RamDisk(10 * sector_size, sector_size=sector_size) for _ in range(3)]
    return Striped(disks, chunk=2 * sector_size)


def passing_puppet(path: Path, sector_size: int) -> PuppetDisk:
    return PuppetDisk(ram(path, sector_size), holds=lambda name, sector, count: False)


DISKS: dict[str, Make] = {
    **{f"file-{cache}": file(cache) for cache in CACHE_MODES},
    "file-read-only": file("writeback", read_only=True),
    "ram": ram,
    "layered": layered,
    "layered-taller": taller,
    "layered-three": three_layers,
    "layered-disk-on-top": disk_on_top,
    "layered-read-only": read_only_layers,
    "ram-layer": layer_alone,
    "recording": lambda path, size: RecordingDisk(ram(path, size)),
    "puppet": passing_puppet,
    "filter": lambda path, size: Filter(ram(path, size)),
    "stop-on-error": lambda path, size: StopOnError(ram(path, size), lambda name, error: True),
    **{f"cache-{mode}": cached(mode) for mode in CACHE_MODES},
    "crypt": lambda path, size: crypt(ram(path, size)),
    "crypt-read-only": lambda path, size: crypt(read_only_layers(path, size)),
    "delay": lambda path, size: Delay(ram(path, size), Fixed(1e-6)),
    **{f"discard-{behaviour.value}": discarding(behaviour) for behaviour in Unmap},
    "guarded": lambda path, size: guarded(ram(path, size)),
    "payload": lambda path, size: Payload(ram(path, size), 3 * size, 16 * size, size),
    "prwrap": lambda path, size: Prwrap(ram(path, size)),
    "record": lambda path, size: recorded(ram(path, size)),
    "striped": striped,
    "throttle": lambda path, size: Throttle(ram(path, size), Limits(iops=10**6, bps=10**12)),
}


@pytest.mark.parametrize("name", DISKS)
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[name for name, _ in checks()])
def test_disk_passes(name: str, check: Check, tmp_path: Path) -> None:
    for size in SIZES:

        def factory(size: int = size) -> Disk:
            try:
                return DISKS[name](tmp_path, size)
            except DiskOpenError as error:
                pytest.skip(f"{name}, sectors of {size}: {error}")

        check(factory)


def test_the_suite_finds_a_disk_without_range_checks() -> None:
    class Careless(Disk):
        sector_count = 64

        async def read(self, sector: int, buffers: Buffers) -> None:
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))

    found = [name for name, check in checks() if _fails(check, Careless)]
    assert "read-out-of-range" in found
    assert "reads-back-what-was-written" in found


def _fails(check: Check, factory: Factory) -> bool:
    try:
        check(factory)
    except (AssertionError, NotImplementedError):
        return True
    return False


FILTERS: dict[str, Callable[[Disk], Filter]] = {
    "base": Filter,
    "disk-layer": DiskLayer,
    "power-cut": PowerCutDisk,
    "puppet": lambda below: PuppetDisk(below, holds=lambda name, sector, count: False),
    "recording": RecordingDisk,
    "traced": TracedDisk,
    "stop-on-error": lambda below: StopOnError(below, lambda name, error: True),
    "cache": lambda below: Cache(below, "writethrough"),
    "crypt": crypt,
    "delay": lambda below: Delay(below, Fixed(1e-6)),
    "discard": lambda below: Discard(below, Unmap.ZEROES),
    "guarded": guarded,
    "payload": lambda below: Payload(below, 0, None, 512),
    "prwrap": Prwrap,
    "record": recorded,
    "throttle": lambda below: Throttle(below, Limits(iops=10**6)),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filter_forwards_every_method(name: str) -> None:
    check_filter(FILTERS[name])


def test_a_filter_that_swallows_a_method_is_found_unless_it_says_so() -> None:
    class Silent(Filter):
        async def flush(self) -> None:
            """Nothing."""

    class Honest(Filter):
        async def flush(self) -> None:
            """Not forwarded: for a test."""

    with pytest.raises(AssertionError, match=r"Silent\.flush does not reach"):
        check_filter(Silent)
    check_filter(Honest)


def test_every_public_operation_is_in_the_list_that_filters_forward() -> None:
    public = {
        name
        for name, member in inspect.getmembers(Disk, inspect.isfunction)
        if not name.startswith("_") and name not in ("check_range", "check_geometry", "close")
    }
    assert public == set(FORWARDED)


def test_all_filters_of_the_package_are_checked_here() -> None:
    def subclasses(of: type[Filter]) -> set[type[Filter]]:
        return {of}.union(*(subclasses(cls) for cls in of.__subclasses__()))

    ours = {cls for cls in subclasses(Filter) if cls.__module__.startswith("drivebay.")}
    # A RAM layer keeps its data in the disk it filters, and unmaps it where it is asked to zero.
    checked = {type(make(RamDisk(1 << 16))) for make in FILTERS.values()} | {RamLayer}
    assert ours == checked


def test_passing_through_a_filter_costs_nothing() -> None:
    below = RamDisk(1 << 16)
    outer = Filter(Filter(below))
    assert outer.read == below.read
    run(outer.flush())
