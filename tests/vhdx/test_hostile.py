"""Hostile 2.8: headers are hostile input."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhdx import create, open_vhdx
from drivebay.disk.formats.vhdx.structs import HEADER_AT, Header, seal
from tests.disk.support import get, put
from tests.vhdx.hostile import VALUES, exercise, samples

MEMORY = 64 << 20
SECONDS = 1.0
NUMBERS = st.sampled_from(VALUES) | st.integers(0, (1 << 64) - 1)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), NUMBERS, st.booleans()), max_size=4)


@pytest.mark.parametrize("number", range(5))
@settings(max_examples=30, deadline=None)
@given(changes=CHANGES)
def test_no_header_makes_us_fail(number: int, changes: list[tuple[int, int, bool]]) -> None:
    sample = samples()[number]
    data = bytearray(sample.data)
    for which, value, relative in changes:
        field = sample.fields[which % len(sample.fields)]
        field.put(data, field.get(data) + value - 4 if relative else value)
    exercise(sample, data)


@pytest.mark.parametrize("number", range(5))
def test_every_field_with_odd_values_stays_in_the_budget(number: int) -> None:
    """64 MiB and a second (of processor time: the machine may have others to serve)."""
    sample = samples()[number]
    for at, field in enumerate(sample.fields):
        for value in VALUES[at % 40 :: 40]:
            data = bytearray(sample.data)
            field.put(data, value)
            tracemalloc.start()
            started = time.process_time()
            try:
                exercise(sample, data)
                taken = time.process_time() - started
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < MEMORY, f"field {at} = {value:#x}: {peak} bytes"
            assert taken < SECONDS * 4, f"field {at} = {value:#x}: {taken} s"


@pytest.mark.parametrize("number", range(5))
def test_an_image_may_end_anywhere(number: int) -> None:
    sample = samples()[number]
    for end in (
        512,
        1024,
        1536,
        2048,
        65536,
        70000,
        1 << 20,
        (1 << 20) + 512,
        len(sample.data) - 512,
    ):
        exercise(sample, bytearray(sample.data[:end]))


def test_a_header_after_which_none_can_come() -> None:
    disk = RamDisk(8 << 20)
    create(disk, 4 << 20)
    for at in HEADER_AT:
        page = Header.unpack(get(disk, at // 512, 8))
        page.sequence_number = (1 << 64) - 1
        put(disk, at // 512, seal(page.pack().ljust(4096, b"\0")))
    with pytest.raises(DiskOpenError, match="after which none comes"):
        open_vhdx(disk)
