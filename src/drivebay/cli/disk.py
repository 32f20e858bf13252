"""``drivebay disk``: look at disks, and create them."""

from __future__ import annotations

import os

import click

from drivebay.cli.errors import CliError
from drivebay.cli.terminal import print_json
from drivebay.disk.scanner import Scanner, SpecError
from drivebay.disk.spec import open_disk, parse
from drivebay.disk.tree import describe, draw, size_text

__all__ = ["command"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="disk")
def command() -> None:
    """Look at disks, and create them."""


@command.command()
@click.argument("spec")
@as_json
def info(spec: str, as_json: bool) -> None:
    """Show the stack of disks that SPEC names: sizes, sector sizes, cache, unmap behaviour."""
    disk = open_disk(spec, read_only=True)
    try:
        description = describe(disk)
    finally:
        disk.close()
    if as_json:
        print_json(description)
    else:
        click.echo(draw(description))


@command.command()
@click.argument("path")
@click.argument("size")
@click.option("--sector", default=512, show_default=True, help="Bytes in a logical sector.")
@as_json
def create(path: str, size: str, sector: int, as_json: bool) -> None:
    """Create an empty raw disk of SIZE (64M, 10G) in the file PATH; it takes no space yet."""
    if os.path.lexists(path):
        raise CliError(f"{path}: there is such a file already", "remove it, or use it as it is")
    scanner = Scanner(size, lambda _: parse("mem:1M"))
    count = scanner.size()
    if scanner.next:
        raise SpecError(size, scanner.position, "the end of the size")
    escaped = path.replace(",", ",,").replace(";", ";;")
    disk = open_disk(f"file:{escaped};create={count};sector={sector}")
    description = describe(disk)
    disk.close()
    if as_json:
        print_json(description)
    else:
        click.echo(f"{path}: {size_text(count)}")
