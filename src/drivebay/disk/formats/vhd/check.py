"""Looking for what is wrong with a VHD image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.problem import Problem, Severity
from drivebay.disk.formats.vhd.dynamic import NONE, DynamicVhd, bitmap_size, read_table
from drivebay.disk.formats.vhd.footer import FOOTER_SIZE, SECTOR
from drivebay.disk.formats.vhd.header import table_size
from drivebay.disk.formats.vhd.image import find_footer, open_vhd
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["check"]


def check(disk: Disk) -> list[Problem]:
    """What is wrong with the image that `disk` holds, which stays open; it is only read."""
    try:
        image = open_vhd(disk, read_only=True)
        if not isinstance(image, DynamicVhd):
            return []
        return run(_check_dynamic(image))
    except (DiskOpenError, DiskError) as error:
        return [Problem(Severity.DAMAGE, str(error))]


async def _check_dynamic(image: DynamicVhd) -> list[Problem]:
    store, problems = image.store, []
    _, footer_at = await find_footer(store)
    if footer_at is None:
        problems.append(Problem(Severity.DAMAGE, "vhd: the footer at the end is missing"))
    else:
        first = await store.read(0, FOOTER_SIZE)
        if first != await store.read(footer_at, FOOTER_SIZE):
            problems.append(Problem(Severity.DAMAGE, "vhd: the two footers differ"))
    table = await read_table(store, image.footer, image.header)
    size = image.block_size + bitmap_size(image.block_size)
    places = sorted(entry * SECTOR for entry in table if entry != NONE)
    ends = [image.header.table_offset + table_size(len(table)), *(at + size for at in places)]
    places.append(store.size if footer_at is None else footer_at)
    lost = sum(max(0, place - end) // size for end, place in zip(ends, places, strict=True))
    if lost:
        problems.append(Problem(Severity.LEAK, f"vhd: room for {lost} blocks that nothing uses"))
    return problems
