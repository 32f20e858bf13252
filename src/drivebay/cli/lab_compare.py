"""``drivebay lab compare``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.errors import CliError
from drivebay.cli.terminal import progress

if TYPE_CHECKING:
    from drivebay.lab.compare import Comparison

__all__ = ["command"]

FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command(name="compare")
@click.option("--no-vm", is_flag=True, help="Our drivers in this process: no guest, no QEMU.")
@click.option("--disk", type=SPEC, help="This disk; unless said, a file made for it.")
@click.option("--only", metavar="NAME,...", default="", help="Only these, as nvme,virtio-blk.")
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Samples of each."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.05, 600),
    default=1.0,
    show_default=True,
    help="Of each sample.",
)
@click.option(
    "--cache",
    "caches",
    type=click.Choice(["writeback", "writethrough"]),
    multiple=True,
    help="Write, too, with the disk in this cache mode; may be said twice.",
)
@click.option("--overwrite", is_flag=True, help="With --cache: what is on --disk may be lost.")
@click.option("--kvm", "accel", flag_value="kvm", help="Use KVM.")
@click.option("--tcg", "accel", flag_value="tcg", help="Emulate the CPU.")
@click.option(
    "--load", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing: show what --json has given earlier.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=FILE, help="Write a page with drawings.")
@click.option("--svg", type=FILE, help="Write the first drawing.")
@click.option("--png", type=FILE, help="Write it as a picture, by rsvg-convert or Chromium.")
def command(
    no_vm: bool,
    disk: str | None,
    only: str,
    rounds: int,
    seconds: float,
    caches: Sequence[str],
    overwrite: bool,
    accel: str | None,
    load: Path | None,
    as_json: bool,
    html: Path | None,
    svg: Path | None,
    png: Path | None,
) -> None:
    """Compare controllers: the same jobs on the same disk.

    Ours and QEMU's own in a Linux guest, or with --no-vm ours in this process: rates, register
    accesses, exits, interrupts and bytes of each request, and how many are worked at once.

    \b
    drivebay lab compare --html compare.html
    drivebay lab compare --no-vm --seconds 0.2
    drivebay lab compare --only nvme,virtio-blk --cache writeback --cache writethrough
    """
    names = _named(only)
    if caches and disk is not None and not overwrite:
        raise CliError(f"--cache {caches[0]} writes to {disk}", "--overwrite allows it")
    for path in filter(None, (html, svg, png)):
        if not os.access(path.absolute().parent, os.W_OK):
            raise CliError(f"{path}: nothing can be written there", "name another folder")

    from drivebay.lab.compare import compare, html_page, overview_svg, write_png
    from drivebay.lab.compare.page import NoPainter, find_painter

    if png is not None:
        try:
            find_painter()
        except NoPainter as missing:
            hint = "install librsvg2-bin, or use --svg"
            raise CliError(f"--png {png}: {missing}", hint) from None
    found = _load(load) if load is not None else compare(
        disk,
        vm=not no_vm,
        only=names,
        rounds=rounds,
        seconds=seconds,
        caches=list(dict.fromkeys(caches)),
        accel="kvm" if accel == "kvm" else "tcg" if accel == "tcg" else "auto",
        progress=progress,
    )  # fmt: skip
    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (html, lambda path: path.write_text(html_page(found))),
        (svg, lambda path: path.write_text(overview_svg(found))),
        (png, lambda path: write_png(found, path)),
    ]
    for wanted, write in writers:
        if wanted is not None:
            try:
                write(wanted)
            except OSError as error:
                raise CliError(f"{wanted}: {error.strerror}") from None
    if as_json:
        sys.stdout.write(found.to_json().decode() + "\n")
    else:
        _show(found)


def _named(only: str) -> list[str]:
    """The controllers that were asked for. Raises `CliError`."""
    from drivebay.lab.compare import CONTENDERS

    names, known = only.split(",") if only else [], [each.name for each in CONTENDERS]
    for name in names:
        if name not in known:
            raise CliError(f"--only {only}: there is no controller {name!r}", ", ".join(known))
    return names


def _load(path: Path) -> Comparison:
    import msgspec

    from drivebay.lab.compare import Comparison

    try:
        return Comparison.from_json(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise CliError(f"{path}: {error}", "it is what `lab compare --json` has printed") from None


def _show(found: Comparison) -> None:
    """Tables: rich's on a terminal that has it."""
    from drivebay.lab.compare.table import WORDS, cells, heading, text_table

    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        Console = None  # type: ignore[assignment, misc]  # noqa: N806
    if Console is None or not sys.stdout.isatty():
        sys.stdout.write(text_table(found))
        return
    console = Console()
    for name, cache in found.jobs:
        columns = cells(found.of_job(name, cache))
        table = Table(title=heading(name, cache), title_justify="left")
        for title in columns:
            table.add_column(title, justify="left" if title in WORDS else "right", no_wrap=True)
        for line in zip(*columns.values(), strict=True):
            table.add_row(*line)
        console.print(table)
    for note in found.notes:
        console.print(note)
