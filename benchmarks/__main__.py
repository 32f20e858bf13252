"""`python -m benchmarks [PART...]`; `--markdown` prints what is kept as tables for a page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import click

from benchmarks import guest, inprocess, machine, report, vhost_user
from benchmarks.peers import PeerError
from benchmarks.progress import Progress
from benchmarks.report import Result
from benchmarks.run import Run, warn
from drivebay.guests.errors import GuestError

PARTS: dict[str, Callable[[Run], Iterator[Result]]] = {
    "virtio-blk": guest.measure_virtio_blk,
    "vhost-user": vhost_user.measure,
    "in-process": inprocess.measure,
}


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--rounds", default=7, show_default=True, help="Samples of each side.")
@click.option("--quick", is_flag=True, help="Two short rounds, only to see that all works.")
@click.option("--markdown", is_flag=True, help="Measure nothing: print build/bench.json.")
def main(parts: Sequence[str], rounds: int, quick: bool, markdown: bool) -> None:
    """Measure everything, or the named parts, and keep the figures in build/bench.json."""
    if markdown:
        click.echo(report.markdown(_chosen(parts)), nl=False)
        return
    run = Run(Progress(), rounds=2 if quick else rounds, scale=0.1 if quick else 1.0)
    try:
        _measure(run, list(parts or PARTS))
    except (GuestError, PeerError) as error:
        raise click.ClickException(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise click.ClickException(f"{error}\n{error.stderr or ''}".strip()) from None
    finally:
        run.close()


def _measure(run: Run, parts: Sequence[str]) -> None:
    taken = machine.describe()
    click.echo("\n".join(f"{key:15} {value}" for key, value in taken.items()))
    click.echo(f"{'interpreter':15} {sys.executable}")
    if (load := machine.busy()) > 0.5:
        warn(f"the load is {load:.1f}: others want the CPUs too")
    for part in parts:
        results = []
        for result in PARTS[part](run):
            results.append(result)
            run.progress.say(" ".join(filter(None, report.cells(result.row()))))
        disk = {"qemu": ".".join(map(str, run.qemu.version)), "file": _file(run)}
        report.replace(part, results, taken | disk)
    click.echo(report.table(_chosen(parts)))


def _file(run: Run) -> str:
    return f"{run.file.stat().st_size >> 20} MiB on {run.file_system}, random data"


def _chosen(parts: Sequence[str]) -> list[report.Row]:
    rows = report.load()
    return [row for row in rows if not parts or row["name"].partition("/")[0] in parts]


if __name__ == "__main__":
    main(prog_name="./do bench")
