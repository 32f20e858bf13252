"""A disk and all it stands on, as plain data and as a drawing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["describe", "draw"]


def describe(disk: Disk) -> dict[str, Any]:
    """The stack as data that JSON can hold: sizes in bytes, `inner` the disks below, top first."""
    return {
        "kind": disk.kind,
        "size": disk.byte_count,
        "sector_count": disk.sector_count,
        "sector_size": disk.sector_size,
        "physical_sector_size": disk.physical_sector_size,
        "read_only": disk.read_only,
        "volatile_cache": disk.volatile_cache,
        "unmap": disk.unmap_behaviour.value,
        "optimal_unmap_sectors": disk.optimal_unmap_sectors,
        "reservations": disk.reservations is not None,
        "allocated": disk.allocated_bytes,
        "disk_id": disk.disk_id.hex() if disk.disk_id else None,
        "details": disk.details,
        "inner": [describe(below) for below in disk.inner],
    }


def draw(description: dict[str, Any]) -> str:
    """What `describe` says, a line or two a disk, each disk indented under what stands on it."""
    return "\n".join(_lines(description, "", ""))


def _lines(disk: dict[str, Any], first: str, rest: str) -> Iterator[str]:
    details = "".join(f"  {name}={value}" for name, value in disk["details"].items())
    yield f"{first}{disk['kind']}  {size_text(disk['size'])}{details}"
    below = disk["inner"]
    yield f"{rest}{'│  ' if below else '   '}{', '.join(_facts(disk))}"
    for number, inner in enumerate(below):
        last = number == len(below) - 1
        yield from _lines(
            inner, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        )


def _facts(disk: dict[str, Any]) -> Iterator[str]:
    yield "read-only" if disk["read_only"] else "writable"
    yield f"sectors {disk['sector_size']}/{disk['physical_sector_size']}"
    yield "write cache" if disk["volatile_cache"] else "no write cache"
    yield f"unmap {disk['unmap']}"
    if disk["allocated"] is not None:
        yield f"{size_text(disk['allocated'])} allocated"
    if disk["reservations"]:
        yield "reservations"


def size_text(size: int) -> str:
    """`size` bytes as a spec would write them: ``64M``, or the nearest tenth: ``1.5G``."""
    for power, unit in enumerate("EPTGMK"):
        scale = 1 << 10 * (6 - power)
        if size >= scale:
            return f"{size // scale}{unit}" if size % scale == 0 else f"{size / scale:.1f}{unit}"
    return f"{size} bytes"
