"""``drivebay lab replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from drivebay.cli.errors import CliError
from drivebay.cli.terminal import print_json

if TYPE_CHECKING:
    from drivebay.lab.replay import Divergence

__all__ = ["command"]

SUFFIX: Final = ".dbreplay"
TEST: Final = '''"""A recording that a controller must repeat."""

from pathlib import Path

from drivebay.cli.recording import replay
from drivebay.lab.replay import Recording


def test_{name}() -> None:
    replay(Recording(Path(__file__).with_name("{file}")))
'''


@click.command(name="replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cut", type=click.Path(path_type=Path), help="Write what leads to the difference.")
@click.option(
    "--pytest", "test", type=click.Path(path_type=Path), help="Write that and a test of it."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, cut: Path | None, test: Path | None, as_json: bool) -> int:
    """Replay a recording of a controller: does it do the same?

    `serve --record` and `boot --record` make one. The controller is made again and gets what it
    got: register accesses, memory, what its disks answered, time. No virtual machine is needed,
    and no disk. It must do what it did; the first difference is shown, and the exit status is 1.

    \b
    drivebay boot --nvme mem:64M --record boot.dbreplay --run 'mkfs.ext4 /dev/nvme0n1'
    drivebay lab replay boot.dbreplay
    drivebay lab replay boot.dbreplay --pytest tests/test_boot.py
    """
    from drivebay.cli.recording import replay
    from drivebay.lab.replay import Divergence, Recording

    found: Divergence | None = None
    try:
        count = replay(Recording(file))
    except Divergence as divergence:
        found, count = divergence, divergence.number
    if test is not None:
        if not test.stem.startswith("test_") or test.suffix != ".py":
            raise CliError(f"--pytest {test}: pytest would not find it", "call it test_NAME.py")
        name = test.stem.removeprefix("test_")
        _cut(file, test.with_name(name + SUFFIX), found)
        test.write_text(TEST.format(name=name, file=name + SUFFIX))
    if cut is not None:
        _cut(file, cut, found)
    if as_json:
        told = {"number": count, "difference": None if found is None else str(found)}
        print_json({"recording": str(file), **told})
    elif found is None:
        click.echo(f"{file}: {count} entries, all of them the same")
    else:
        click.echo(f"{file}: {found}")
    return 0 if found is None else 1


def _cut(file: Path, target: Path, found: Divergence | None) -> None:
    """The part up to the difference, or all of it."""
    from drivebay.lab.replay import cut

    cut(file, target, None if found is None else found.number + 1)
