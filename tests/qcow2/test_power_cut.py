"""Hostile 4.10: the power fails at any moment. What was flushed is there, and nothing that is used
is free. ``DRIVEBAY_POWER_CUTS`` says how many states are looked at, 600 unless said.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from drivebay.disk.contract import Disk
from drivebay.disk.formats.qcow2 import Qcow2Disk, check
from drivebay.disk.formats.qcow2.header import Header
from drivebay.suspend import run
from drivebay.testing import PowerCutDisk
from tests.disk.support import fill
from tests.qcow2.support import (
    KIB,
    MIB,
    SECTOR,
    Guest,
    Ram,
    blank,
    content,
    nearly_full,
    of_bytes,
    over,
    sectors_of,
)

STATES = int(os.environ.get("DRIVEBAY_POWER_CUTS", "600"))

SORTS: dict[str, dict[str, Any]] = {
    "clusters-512": {"cluster_size": 512},
    "clusters-4k": {"cluster_size": 4096, "refcount_bits": 1},
    "refcounts-64": {"cluster_size": 512, "refcount_bits": 64},
    "version-2": {"cluster_size": 1024, "version": 2},
    "below": {"cluster_size": 2048, "below": True},
    "resized": {"cluster_size": 512, "resize": True, "size": 2 * MIB - 16 * KIB},
    "refcount-table": {"nearly_full": True},
}


@pytest.mark.parametrize("sort", SORTS)
def test_what_was_flushed_survives(sort: str) -> None:
    options = dict(SORTS[sort])
    below: Disk | None = None
    if options.pop("below", False):
        below = Ram(200 * KIB)
        fill(below)
    resizes = options.pop("resize", False)
    if options.pop("nearly_full", False):
        store = nearly_full(256 * KIB)
    else:
        store = blank(options.pop("size", 256 * KIB), **options)
    tables = Header.unpack(content(store))
    cut = PowerCutDisk(store)

    def opened(disk: Disk) -> Disk:
        image = Qcow2Disk(disk)
        return image if below is None else over(image, below)

    guest = Guest(opened(cut), seed=7)
    # (when the flush had ended, what was stable then, what else each sector was until the next)
    epochs = [(cut.moment, guest.stable, guest.since)]
    for number in range(240):
        guest.step()
        if number % 16 == 15 or guest.chance.random() < 0.05:
            if resizes and number % 32 == 31:
                grow = guest.chance.randrange(1, 40)
                guest.flush()
                run(guest.disk.resize(guest.disk.sector_count + grow))
                guest.model += bytes(grow * SECTOR)
            guest.flush()
            epochs.append((cut.moment, guest.stable, guest.since))
    after_all = Header.unpack(content(store))
    assert (sort == "resized") == (after_all.l1_table_offset != tables.l1_table_offset)
    moved = after_all.refcount_table_offset != tables.refcount_table_offset
    assert moved or sort != "refcount-table"
    for state in cut.states(STATES // len(SORTS), seed=1):
        disk = of_bytes(state.data)
        found = check(disk)
        assert found.corruptions == 0, (state.moment, found.problems)
        _, stable, since = max((e for e in epochs if e[0] <= state.moment), key=lambda e: e[0])
        after = opened(disk)
        there = content(after)
        for sector, (was, now) in enumerate(
            zip(sectors_of(stable), sectors_of(there), strict=False)
        ):
            if now != was:
                assert now in since.get(sector, ()), (state.moment, sector)
        after.close()
        assert check(disk, repair=True).clean
        assert check(disk).leaks == 0
