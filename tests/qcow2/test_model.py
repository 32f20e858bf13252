"""Images against a bytearray: any operations in any order, closed and opened, checked each time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from drivebay.disk.formats.qcow2 import Qcow2Disk
from drivebay.suspend import run
from tests.disk.support import fill
from tests.disk.test_model import MOST, DiskMachine
from tests.qcow2.support import SECTOR, Ram, blank, content, is_clean, is_sound, over


class ImageMachine(DiskMachine):
    @initialize(
        bits=st.sampled_from((9, 10, 12, 16)),
        refcount_bits=st.sampled_from((1, 8, 16, 64)),
        size=st.integers(1, MOST),
    )
    def start(self, bits: int, refcount_bits: int, size: int) -> None:
        self.store = blank(size * SECTOR, cluster_size=1 << bits, refcount_bits=refcount_bits)
        self.disk = Qcow2Disk(self.store)
        self.model = bytearray(size * SECTOR)

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        is_clean(self.store)
        self.disk = Qcow2Disk(self.store)
        assert content(self.disk) == self.model

    @rule()
    def copy_as_it_is(self) -> None:
        run(self.disk.flush())
        copy = self.store.copy()
        is_sound(copy)
        assert content(Qcow2Disk(copy, read_only=True)) == self.model


class OverMachine(DiskMachine):
    """An image over a disk with something in it that is larger or smaller than it."""

    @initialize(
        bits=st.sampled_from((9, 10, 12)), size=st.integers(1, MOST), below=st.integers(1, MOST)
    )
    def start(self, bits: int, size: int, below: int) -> None:
        self.store = blank(size * SECTOR, cluster_size=1 << bits)
        self.below = Ram(below * SECTOR)
        fill(self.below)
        self.disk = over(Qcow2Disk(self.store), self.below)
        self.model = (content(self.below) + bytes(size * SECTOR))[: size * SECTOR]

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        is_clean(self.store)
        self.disk = over(Qcow2Disk(self.store), self.below)
        assert content(self.disk) == self.model


_short: Any = settings(max_examples=40, stateful_step_count=30, deadline=None)

TestImage = ImageMachine.TestCase
TestOver = OverMachine.TestCase
for _case in (TestImage, TestOver):
    _case.settings = _short
del _case
