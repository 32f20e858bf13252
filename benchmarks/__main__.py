"""`python -m benchmarks [PART...]`; `--markdown` prints what is kept as tables for a page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import click

from benchmarks import (
    filters,
    guest,
    ide,
    inprocess,
    layers,
    machine,
    nbd,
    nvme,
    pci_guest,
    per_io,
    report,
    scsi,
    storvsp,
    trace,
    vhost_user,
)
from benchmarks.peers import PeerError
from benchmarks.progress import Progress
from benchmarks.report import Result
from benchmarks.run import Run, warn
from drivebay.guests.errors import GuestError

PARTS: dict[str, Callable[[Run], Iterator[Result]]] = {
    "virtio-blk": guest.measure_virtio_blk,
    "vhost-user": vhost_user.measure,
    "in-process": inprocess.measure,
    "ide": lambda run: chain(ide.measure(run), pci_guest.measure_ide(run)),
    "ahci": pci_guest.measure_ahci,
    "nvme": nvme.measure,
    "scsi": lambda run: chain(scsi.measure(run), storvsp.measure(run)),
    "exits": per_io.measure,
    "nbd": nbd.measure,
    "layers": layers.measure,
    "filters": filters.measure,
    "trace": trace.measure,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--rounds", default=5, show_default=True, help="Samples of each side.")
@click.option("--quick", is_flag=True, help="Two short rounds, to see that all works; not kept.")
@click.option(
    "--daemon",
    type=click.Path(exists=True, dir_okay=False),
    help="Another qemu-storage-daemon to compare with; not kept.",
)
@click.option("--markdown", is_flag=True, help="Measure nothing: print what is kept for a page.")
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="Put it in this page.")
def main(
    parts: Sequence[str],
    rounds: int,
    quick: bool,
    daemon: str | None,
    markdown: bool,
    into: Path | None,
) -> None:
    """Measure everything, or the named parts, and keep the figures in build/bench.json."""
    if into:
        report.put_into(into, report.markdown(_chosen(parts)))
        return
    if markdown:
        click.echo(report.markdown(_chosen(parts)), nl=False)
        return
    run = Run(Progress(), 2 if quick else rounds, 0.1 if quick else 1.0, daemon)
    try:
        _measure(run, list(parts or PARTS), keep=not quick and daemon is None)
    except (GuestError, PeerError) as error:
        raise click.ClickException(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"{error}\n{error.stderr or ''}".strip()) from None
    finally:
        run.close()


def _measure(run: Run, parts: Sequence[str], keep: bool) -> None:
    about = machine.describe()
    click.echo("\n".join(f"{key:12} {value}" for key, value in about.items()))
    click.echo(f"{'interpreter':12} {sys.executable}")
    if (load := machine.busy()) > 0.5:
        warn(f"the load is {load:.1f}: others want the CPUs too")
    shown = []
    for part in parts:
        results = []
        for result in PARTS[part](run):
            results.append(result)
            run.progress.say(report.line(result.row()))
        disk = {"QEMU": ".".join(map(str, run.qemu.version)), "file": _file(run)}
        shown += report.replace(part, results, about | disk, keep)
    click.echo(report.table(shown))
    click.echo(report.summary(shown))


def _file(run: Run) -> str:
    return f"{run.file.stat().st_size >> 20} MiB on {run.file_system}, random data"


def _chosen(parts: Sequence[str]) -> list[report.Row]:
    rows = report.load()
    return [row for row in rows if not parts or row["name"].partition("/")[0] in parts]


if __name__ == "__main__":
    main(prog_name="./do bench")
