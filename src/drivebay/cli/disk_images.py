"""``drivebay disk create``, ``check``, ``resize``, ``commit`` and ``rebase``."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.disk_formats import (
    FORMATS,
    STORED_AS,
    check_database,
    create_image,
    escaped,
    format_of,
    image_in,
    image_spec,
    opened_as,
    parse_size,
)
from drivebay.cli.errors import CliError
from drivebay.cli.terminal import print_json
from drivebay.cli.working import work
from drivebay.disk.scanner import Node, Scanner
from drivebay.disk.spec import open_disk, parse
from drivebay.disk.tree import describe, size_text

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["check", "commit", "create", "rebase", "resize"]

CORRUPT: Final = 2
LEAKS: Final = 3

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument("path", type=SPEC)
@click.argument("size", required=False)
@click.option("-f", "format", metavar="FORMAT", help="By the extension of PATH unless said; raw.")
@click.option("-b", "--backing", metavar="PATH", help="The file that the image stands on.")
@click.option("-F", "backing_format", metavar="FORMAT", help="Of that file.")
@click.option("-o", "options", multiple=True, metavar="NAME=VALUE", help="Of the format.")
@click.option("--sector", default=512, show_default=True, help="Bytes in a logical sector; raw.")
@as_json
def create(
    path: str,
    size: str | None,
    format: str | None,
    backing: str | None,
    backing_format: str | None,
    options: tuple[str, ...],
    sector: int,
    as_json: bool,
) -> None:
    """Create an empty disk of SIZE (64M, 10G) in the file PATH.

    It takes no space yet. With --backing it shows that file until it is written, and has its size
    unless SIZE says other. A relative path goes from the folder of PATH.
    """
    if size is None and backing is None:
        raise CliError(f"{path}: how large?", "SIZE is as 64M, or that of a --backing file")
    if format is None and opened_as(path) == "sql":
        hint = f"sql:{escaped(path)};create=SIZE makes it where a disk is named; -f raw is a file"
        raise CliError(f"{path}: a database of sectors is not made here", hint)
    name = format or format_of(path)
    below = None if backing is None else (backing, backing_format or format_of(backing))
    bytes_ = None if size is None else parse_size(size)
    create_image(name, path, bytes_, options, sector=sector, backing=below)
    with closing(open_disk(image_spec(name, path, below is not None), read_only=True)) as disk:
        description = describe(disk)
    if as_json:
        print_json(description)
    else:
        click.echo(f"{path}: {name}, {size_text(description['size'])}")


@click.command()
@click.argument("spec", type=SPEC)
@click.option("-r", "--repair", is_flag=True, help="Set right what can be.")
@as_json
def check(spec: str, repair: bool, as_json: bool) -> int:
    """Look for what is wrong with the image SPEC.

    It is only read unless --repair is said.

    Exit status 0: nothing, 2: it is damaged, 3: it wastes space; after a repair, what is left.
    """
    from drivebay.disk.formats.chain import open_store

    node = parse(spec)
    if node.kind in ("sql", "sqldiff"):
        name, found = "sql", check_database(_path(node), repair)
    else:
        format, holder = image_in(node)
        name = format.name
        with closing(open_store(holder, read_only=not repair)) as disk:
            found = format.check(disk, repair)
            if found.repaired:
                found = format.check(disk, False)._replace(repaired=found.repaired)
    if as_json:
        print_json({"format": name, **found._asdict()})
    else:
        for problem in found.problems:
            click.echo(problem)
        click.echo(f"{found.corruptions or 'nothing'} wrong, {found.leaks or 'nothing'} wasted")
    return CORRUPT if found.corruptions else LEAKS if found.leaks else 0


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("spec", type=SPEC)
@click.argument("size")
@click.option("--shrink", is_flag=True, help="SIZE may be less than it is: the rest is lost.")
@as_json
def resize(spec: str, size: str, shrink: bool, as_json: bool) -> None:
    """Give the disk SPEC another SIZE: 64M, or +1G or -1G."""
    sign = size[:1] if size[:1] in ("+", "-") else ""
    change = parse_size(size[len(sign) :])
    with closing(open_disk(spec)) as disk:
        before = disk.byte_count
        after = {"": change, "+": before + change, "-": before - change}[sign]
        if after % disk.sector_size or after <= 0:
            raise CliError(f"{spec}: no disk of sectors of {disk.sector_size} has {after} bytes")
        if after < before and not shrink:
            raise CliError(
                f"{spec}: has {size_text(before)}, more than {size_text(after)}",
                "--shrink cuts off the rest, and what it holds is lost",
            )
        work(disk.resize(after // disk.sector_size))
        work(disk.flush())
    if as_json:
        print_json({"size": after, "before": before})
    else:
        click.echo(f"{spec}: {size_text(after)}")


@click.command()
@click.argument("spec", type=SPEC)
def commit(spec: str) -> None:
    """Write what the top layer of SPEC holds to the disk under it.

    That then shows what SPEC does. SPEC is as sqldiff:TOP:BASE, or an image whose header names
    another: qcow2:chain:TOP.
    """
    from drivebay.disk.layers.layered import LayeredDisk
    from drivebay.disk.layers.operations import commit as merge

    with closing(_mergeable(parse(spec))) as disk:
        if not isinstance(disk, LayeredDisk):
            raise CliError(f"{spec}: has no layers", "a disk with layers is sqldiff:TOP:BASE")
        top = work(merge(disk))
        top.close()
    click.echo(f"{spec}: what the top layer holds is in the disk under it too")


def _mergeable(node: Node) -> Disk:
    """The disk of `node`, open so that its second layer can be written."""
    if node.kind in FORMATS:
        from drivebay.disk.formats.chain import FORMATS as LAYERS
        from drivebay.disk.formats.chain import open_image

        format = LAYERS[STORED_AS[node.kind]]
        return open_image(format, node.inner[0], False, chain=True, writes_parent=True)
    if len(node.inner) == 1:
        node.inner[0].written = True
    return node.open()


@click.command()
@click.argument("spec", type=SPEC)
@click.argument("base", type=SPEC)
def rebase(spec: str, base: str) -> None:
    """Let the top layer of SPEC show the same over another BASE.

    SPEC is sqldiff:TOP:OLD. TOP takes what OLD and BASE have different.
    """
    from drivebay.disk.layers.operations import rebase as move
    from drivebay.disk.layers.sql import open_over

    node = parse(spec)
    if node.kind != "sqldiff":
        raise CliError(f"{spec}: no layer that can be moved", "one is sqldiff:TOP:OLD")
    path = _path(node)
    with (
        closing(node.inner[0].open(read_only=True)) as old,
        closing(open_disk(base, read_only=True)) as new,
        closing(open_over(path, old, create=False, read_only=False)) as layer,
    ):
        work(move(layer, old, new))
    click.echo(f"sqldiff:{escaped(path).replace(':', '::')}:{base}: shows what {spec} did")


def _path(node: Node) -> str:
    """The file of ``sql:`` or ``sqldiff:``, or of a bare path that is one."""
    scanner = Scanner(node.text, Scanner.disk)
    prefix = f"{node.kind}:"
    scanner.position = len(prefix) if node.text.startswith(prefix) else 0
    return scanner.word("a path", stops=";,:") if node.inner else scanner.word("a path")
