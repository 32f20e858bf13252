"""The footer: the specification's geometry, and hostile.md 2.8 on what it may claim."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhd.footer import DiskType, Footer, Geometry, parse_footer


@pytest.mark.parametrize(
    ("sectors", "geometry"),
    [
        (128, (1, 4, 17)),
        (20536, (302, 4, 17)),
        (17 * 4 * 1024 - 1, (1023, 4, 17)),
        (17 * 4 * 1024, (140, 16, 31)),
        (504 << 11, (1024, 16, 63)),
        (65535 * 16 * 63 - 1, (65534, 16, 63)),
        (65535 * 16 * 63, (16191, 16, 255)),
        (2040 << 21, (65535, 16, 255)),
    ],
)
def test_geometry_is_computed_as_the_specification_says(
    sectors: int, geometry: tuple[int, int, int]
) -> None:
    assert Geometry.of(sectors * 512) == Geometry(*geometry)


def test_a_footer_reads_back() -> None:
    footer = Footer.make(1 << 20, DiskType.FIXED, unique_id=b"0123456789abcdef")
    again = parse_footer(footer.pack(), (1 << 20) + 512)
    assert again == footer
    assert (again.capacity, again.disk_id) == (1 << 20, b"0123456789abcdef")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cookie": b"conectiy"}, "no footer"),
        ({"file_format_version": 0x20000}, "version"),
        ({"disk_type": 5}, "disk type 5"),
        ({"current_size": 0}, "sectors"),
        ({"current_size": 513}, "sectors"),
        ({"current_size": (1 << 20) + 512}, "truncated|room"),
        ({"current_size": (1 << 64) - 512}, "room"),
    ],
)
def test_a_footer_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    footer = replace(Footer.make(1 << 20, DiskType.FIXED), **changes).sealed()
    with pytest.raises(DiskOpenError, match=message):
        parse_footer(footer.pack(), (1 << 20) + 512)


def test_a_wrong_checksum_is_refused() -> None:
    footer = Footer.make(1 << 20, DiskType.FIXED)
    with pytest.raises(DiskOpenError, match="checksum"):
        parse_footer(replace(footer, original_size=7).pack(), 2 << 20)
