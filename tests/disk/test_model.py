"""Every writable disk against a bytearray: any operations, in any order, buffers cut anywhere."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.layers.ram import RamLayer
from drivebay.suspend import run
from tests.disk.support import fill, get, noise

SECTOR = 512
MOST = 64

counts = st.integers(0, 9)
starts = st.integers(0, MOST - 1)


class DiskMachine(RuleBasedStateMachine):
    disk: Disk
    model: bytearray
    reopens = False

    def sectors(self, start: int, count: int) -> tuple[int, int]:
        """A range that lies on the disk as it is now."""
        size = len(self.model) // SECTOR
        start %= size
        return start, min(count, size - start)

    def change(self, start: int, data: bytes) -> None:
        self.model[start * SECTOR : start * SECTOR + len(data)] = data

    @rule(start=starts, count=counts, cuts=st.lists(st.integers(0, 9 * SECTOR)), fua=st.booleans())
    def write(self, start: int, count: int, cuts: list[int], fua: bool) -> None:
        start, count = self.sectors(start, count)
        data = noise(count * SECTOR, start + count)
        run(self.disk.write(start, _cut(memoryview(data), cuts), fua))
        self.change(start, data)

    @rule(start=starts, count=counts, cuts=st.lists(st.integers(0, 9 * SECTOR)))
    def read(self, start: int, count: int, cuts: list[int]) -> None:
        start, count = self.sectors(start, count)
        data = memoryview(bytearray(count * SECTOR))
        run(self.disk.read(start, _cut(data, cuts)))
        assert data == self.model[start * SECTOR : (start + count) * SECTOR]

    @rule(start=starts, count=counts)
    def unmap(self, start: int, count: int) -> None:
        start, count = self.sectors(start, count)
        run(self.disk.unmap(start, count))
        self.change(start, bytes(count * SECTOR))

    @rule(start=starts, count=counts, fua=st.booleans(), unmap=st.booleans())
    def write_zeroes(self, start: int, count: int, fua: bool, unmap: bool) -> None:
        start, count = self.sectors(start, count)
        run(self.disk.write_zeroes(start, count, fua, unmap))
        self.change(start, bytes(count * SECTOR))

    @rule(count=st.integers(1, MOST))
    def resize(self, count: int) -> None:
        run(self.disk.resize(count))
        self.model = _sized(self.model, count)
        assert self.disk.sector_count == count

    @rule()
    def flush(self) -> None:
        run(self.disk.flush())

    @precondition(lambda self: isinstance(self.disk, FileDisk))
    @rule()
    def reopen(self) -> None:
        assert isinstance(self.disk, FileDisk)
        path = self.disk.path
        self.disk.close()
        self.disk = FileDisk(path)

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            assert get(self.disk, 0, self.disk.sector_count) == self.model
            self.disk.close()


def _sized(model: bytearray, count: int) -> bytearray:
    return (model + bytes(MOST * SECTOR))[: count * SECTOR]


def _cut(data: memoryview, cuts: list[int]) -> list[memoryview]:
    places = [0, *sorted(min(place, len(data)) for place in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


class RamMachine(DiskMachine):
    @initialize()
    def start(self) -> None:
        self.disk = RamDisk(16 * SECTOR)
        self.model = bytearray(16 * SECTOR)


class FileMachine(DiskMachine):
    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "image"
        self.disk = FileDisk(str(path), create=16 * SECTOR)
        self.model = bytearray(16 * SECTOR)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class LayeredMachine(DiskMachine):
    """Two RAM layers over a disk of 24 sectors, each with something in it; the lower are wild."""

    @initialize(
        size=st.integers(1, 40),
        middle=st.lists(st.tuples(starts, counts), max_size=5),
        low=st.integers(1, 40),
    )
    def start(self, size: int, middle: list[tuple[int, int]], low: int) -> None:
        base = RamDisk(24 * SECTOR)
        self.model = bytearray(fill(base)) + bytearray(6 * SECTOR)
        below = LayeredDisk.over(RamLayer(30 * SECTOR), base)
        self.disk = below
        for start, count in middle:
            self.write(start, count, [], False)
            self.unmap(start + 2, 2)
        self.resize(low)
        self.resize(30)
        self.disk = LayeredDisk.over(RamLayer(size * SECTOR), below)
        assert len(self.disk.layers) == 3
        self.model = _sized(self.model, size)


class DiskOnTopMachine(DiskMachine):
    @initialize()
    def start(self) -> None:
        below = RamDisk(16 * SECTOR)
        fill(below)
        self.disk = LayeredDisk([DiskLayer(RamDisk(16 * SECTOR)), DiskLayer(below)])
        self.model = bytearray(16 * SECTOR)


_short: Any = settings(max_examples=50, stateful_step_count=30, deadline=None)

TestRam = RamMachine.TestCase
TestFile = FileMachine.TestCase
TestLayered = LayeredMachine.TestCase
TestDiskOnTop = DiskOnTopMachine.TestCase
for _case in (TestRam, TestFile, TestLayered, TestDiskOnTop):
    _case.settings = _short
