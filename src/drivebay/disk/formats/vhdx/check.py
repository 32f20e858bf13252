"""Looking for what is wrong with a VHDX image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.problem import Problem, Severity
from drivebay.disk.formats.vhdx.image import VhdxImage, open_vhdx
from drivebay.disk.formats.vhdx.structs import (
    HEADER_AT,
    HEADER_SIZE,
    MEBIBYTE,
    REGIONS_AT,
    REGIONS_SIZE,
    is_sealed,
)
from drivebay.suspend import run

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["check"]


def check(disk: Disk) -> list[Problem]:
    """What is wrong with the image that `disk` holds, which stays open; it is only read.

    A log that a crash has left is no problem: it is looked through as if it had been replayed.
    """
    try:
        return run(_check(open_vhdx(disk, read_only=True)))
    except (DiskOpenError, DiskError) as error:
        return [Problem(Severity.DAMAGE, str(error))]


async def _check(image: VhdxImage) -> list[Problem]:
    store, problems = image.store, []
    for name, places, length in (
        ("header", HEADER_AT, HEADER_SIZE),
        ("region table", REGIONS_AT, REGIONS_SIZE),
    ):
        for offset in places:
            if not is_sealed(await store.read(offset, length)):
                text = f"vhdx: the {name} at {offset} is not whole; the other one is"
                problems.append(Problem(Severity.DAMAGE, text))
    unused = image.unused_bytes // MEBIBYTE
    if unused:
        problems.append(Problem(Severity.LEAK, f"vhdx: {unused} MiB that nothing uses"))
    return problems
