"""A stack of disks as data and as a drawing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drivebay.disk.spec import open_disk
from drivebay.disk.tree import describe, draw, size_text


def test_a_stack_is_described_and_drawn(tmp_path: Path) -> None:
    path = tmp_path / "base.img"
    open_disk(f"{path};create=64M;sector=4k").close()
    disk = open_disk(f"memdiff:{path};sector=4k")
    described = json.loads(json.dumps(describe(disk)))
    assert described["kind"] == "layered"
    assert described["size"] == 64 << 20
    assert described["sector_size"] == 4096
    assert described["unmap"] == "zeroes"
    base = described["inner"][1]
    assert (base["kind"], base["read_only"]) == ("file", True)
    assert base["details"] == {"path": str(path), "cache": "writeback"}
    assert len(base["disk_id"]) == 32
    assert draw(describe(disk)) == (
        "layered  64M\n"
        "│  writable, sectors 4096/4096, no write cache, unmap zeroes, 0 bytes allocated\n"
        "├─ ram layer  64M\n"
        "│     writable, sectors 4096/4096, no write cache, unmap zeroes, 0 bytes allocated\n"
        f"└─ file  64M  path={path}  cache=writeback\n"
        "      read-only, sectors 4096/4096, write cache, unmap ignored, 0 bytes allocated"
    )
    disk.close()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1000, "1000 bytes"),
        (1024, "1K"),
        (1536, "1.5K"),
        (64 << 20, "64M"),
        (7 << 60, "7E"),
    ],
)
def test_sizes_are_written_as_a_spec_would(size: int, text: str) -> None:
    assert size_text(size) == text
