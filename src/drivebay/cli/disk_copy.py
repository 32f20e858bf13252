"""``drivebay disk convert``, ``compare`` and ``map``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.disk_formats import create_image, format_of, image_spec
from drivebay.cli.errors import CliError
from drivebay.cli.terminal import print_json
from drivebay.cli.working import Told, work
from drivebay.disk.spec import open_disk
from drivebay.disk.tree import size_text

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk, Extent

__all__ = ["compare", "convert", "map_"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

DIFFERS = 1
TROUBLE = 2


@click.command()
@click.argument("source", type=SPEC)
@click.argument("target", type=SPEC)
@click.option("-O", "format", metavar="FORMAT", help="Of a new TARGET; or by its extension.")
@click.option("-o", "options", multiple=True, metavar="NAME=VALUE", help="Of the format.")
@click.option("-n", "existing", is_flag=True, help="TARGET is the spec of a disk that is there.")
@as_json
def convert(
    source: str,
    target: str,
    format: str | None,
    options: tuple[str, ...],
    existing: bool,
    as_json: bool,
) -> None:
    """Copy the disk SOURCE into a new file TARGET. Zeroes take no space there."""
    if existing and (format or options):
        raise CliError("-n: a disk that is there has its format", "leave out -O and -o")
    with (
        closing(open_disk(source, read_only=True)) as read,
        _target(read, target, format, options, existing) as written,
    ):
        from drivebay.disk.copying import copy

        with Told("convert", read.byte_count) as told:
            work(copy(read, written, told, blank=not existing))
        report = {"size": read.byte_count, "allocated": written.allocated_bytes}
    if as_json:
        print_json(report)


@contextmanager
def _target(
    source: Disk, target: str, format: str | None, options: tuple[str, ...], existing: bool
) -> Iterator[Disk]:
    """The disk to write; a new one is removed again if anything fails."""
    if existing:
        with closing(open_disk(target)) as disk:
            yield disk
        return
    name = format or format_of(target)
    create_image(name, target, source.byte_count, options)
    try:
        with closing(open_disk(image_spec(name, target))) as disk:
            yield disk
    except BaseException:
        os.unlink(target)
        raise


@click.command()
@click.argument("one", type=SPEC)
@click.argument("two", type=SPEC)
@click.option("-s", "--strict", is_flag=True, help="Disks of different sizes differ.")
@as_json
def compare(one: str, two: str, strict: bool, as_json: bool) -> int:
    """Compare the disks ONE and TWO.

    Exit status 0: they are the same, 1: they differ, 2: trouble.

    Where one is longer, they are the same if the rest of it is zero.
    """
    from drivebay.disk.copying import compare as compared
    from drivebay.disk.errors import DiskError, DiskOpenError

    try:
        with (
            closing(open_disk(one, read_only=True)) as first,
            closing(open_disk(two, read_only=True)) as second,
        ):
            sizes = first.byte_count, second.byte_count
            at = min(sizes) if strict and sizes[0] != sizes[1] else None
            if at is None:
                with Told("compare", max(sizes)) as told:
                    at = work(compared(first, second, told))
    except (DiskError, DiskOpenError) as error:
        raise CliError(str(error), getattr(error, "hint", ""), status=TROUBLE) from error
    if as_json:
        print_json({"same": at is None, "first_difference": at, "sizes": list(sizes)})
    else:
        click.echo("the same" if at is None else f"differ from byte {at} on")
    return 0 if at is None else DIFFERS


@click.command(name="map")
@click.argument("spec", type=SPEC)
@as_json
def map_(spec: str, as_json: bool) -> None:
    """Show where the disk SPEC holds data, is zero, takes no space."""

    async def listed(disk: Disk) -> list[Extent]:
        from drivebay.disk.copying import extents

        return [extent async for extent in extents(disk)]

    with closing(open_disk(spec, read_only=True)) as disk:
        found = work(listed(disk))
        size = disk.sector_size
    if as_json:
        print_json([_described(extent, size) for extent in found])
        return
    for extent in found:
        what = "zero" if extent.zero else "data"
        space = "" if extent.allocated else ", no space"
        start, length = extent.sector * size, extent.count * size
        click.echo(f"{start:#18x} {length:#18x}  {what}{space}  ({size_text(length)})")


def _described(extent: Extent, size: int) -> dict[str, int | bool]:
    """By the names of qemu-img map."""
    return {
        "start": extent.sector * size,
        "length": extent.count * size,
        "present": extent.allocated,
        "zero": extent.zero,
        "data": extent.allocated and not extent.zero,
    }
