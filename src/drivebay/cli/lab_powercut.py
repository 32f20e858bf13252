"""``drivebay lab powercut``: check everything that a power cut may leave of a disk."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.boot import MOST_MEMORY
from drivebay.cli.errors import CliError
from drivebay.cli.memory import parse_memory
from drivebay.cli.terminal import print_json, progress, stream
from drivebay.cli.working import EVERY, PATIENCE

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.lab.powercut import Check, Finding, Report
    from drivebay.testing.history import History, Image, Kept

__all__ = ["command"]

LOG: Final = "writes.log"
IMAGES: Final = 1000
BOOTS: Final = 20
TEAR: Final = 512
SHOWN: Final = 10
"""Writes, and lines of what a check said, that are shown."""


@click.command(name="powercut")
@click.argument("log", required=False, type=click.Path())
@click.option("--disk", "spec", type=SPEC, required=True, help="The disk as it was before.")
@click.option("--run", "script", metavar="COMMAND", help="Run it in a guest and record /dev/vda.")
@click.option("--log", "new_log", metavar="FILE", help="With --run: keep what was recorded.")
@click.option(
    "--check", metavar="COMMAND", help="A shell command that succeeds on {image}, {nbd} or {said}."
)
@click.option("--boot", metavar="COMMAND", help="One that succeeds in a guest with it as /dev/vda.")
@click.option(
    "-n",
    "--images",
    type=click.IntRange(1),
    help=f"Look at so many at most: {IMAGES}, or {BOOTS} with --boot.",
)
@click.option("--seed", default=0, help="Another number draws others.")
@click.option(
    "--tear",
    type=click.IntRange(0),
    default=TEAR,
    show_default=True,
    help="Bytes that are written as a whole or not at all; 0: every write is.",
)
@click.option(
    "--at",
    "times",
    multiple=True,
    metavar="WHEN",
    help="Fail only at write=N, when the Nth write has begun, or at mark=TEXT.",
)
@click.option("--after", metavar="WHEN", help="Fail only then or later.")
@click.option("--image", "name", metavar="NAME", help="Look at this image only.")
@click.option("-o", "--output", metavar="FILE", help="With --image: write it there.")
@click.option(
    "--keep",
    metavar="DIR",
    default="powercut-failed",
    show_default=True,
    help="Where the smallest image that failed goes.",
)
@click.option("--jobs", type=click.IntRange(1), help="Images at a time: as many as CPUs.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds a check, or ten times that --run, may take.",
)
@click.option("-m", "--memory", default="512M", show_default=True, help="Of a guest.")
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def command(
    log: str | None,
    spec: str,
    script: str | None,
    new_log: str | None,
    check: str | None,
    boot: str | None,
    images: int | None,
    seed: int,
    tear: int,
    times: Sequence[str],
    after: str | None,
    name: str | None,
    output: str | None,
    keep: str,
    jobs: int | None,
    timeout: float,
    memory: str,
    as_json: bool,
) -> int:
    """Check everything that a power cut may leave of a disk.

    Between two flushes a disk may keep any part of what was written, in any order. --run records
    what a command in the small Linux guest writes to /dev/vda; LOG is what record:FILE:DISK or
    dm-log-writes has recorded. The exit status is 1 if an image fails the check.

    \b
    drivebay lab powercut --disk mem:16M --run 'mkfs.ext4 -q /dev/vda' --check 'e2fsck -fn {image}'
    drivebay lab powercut writes.log --disk before.img --check 'e2fsck -fn {image}'
    drivebay lab powercut writes.log --disk before.img --image 210:7 -o left.img
    """
    from drivebay.disk.spec import open_disk, parse
    from drivebay.lab.powercut import MOST_TRIES, Choice, Log, examine
    from drivebay.lab.powercut_check import CheckError

    parse_memory("--memory", memory, most=MOST_MEMORY)
    _check_options(log, script, new_log, check, boot, name, output)
    parse(spec)

    def open_base() -> Disk:
        return open_disk(spec, read_only=True)

    with ExitStack() as stack:
        base = stack.enter_context(closing(open_base()))
        path = log or new_log or os.path.join(_folder(stack), LOG)
        if script is not None:
            _record(script, open_base(), path, memory, 10 * timeout, as_json)
        found = stack.enter_context(Log(path, base.byte_count, tear or base.byte_count))
        if output is not None:
            _write(_named(found.history, str(name)), base, output)
        if check is None and boot is None:
            return 0
        choice = Choice(found.history, images or (BOOTS if boot else IMAGES), seed, tear > 0)
        choice.moments = [_moment(found.history, text) for text in times] or None
        choice.first = _moment(found.history, after) if after is not None else 0
        try:
            report = examine(
                choice if name is None else [_named(found.history, name)],
                open_base,
                _judge(check, boot, memory, timeout),
                jobs=jobs or os.cpu_count() or 1,
                tries=MOST_TRIES if name is None else 0,
                progress=_Told(),
            )
        except CheckError as error:
            raise CliError(str(error), error.hint) from error
        outcome = _outcome(report, choice.complete, seed)
        if report.smallest is not None and name is None:
            outcome["kept"] = _free(keep)
            recorded = path if log is None and new_log is None else None
            _keep(outcome["kept"], report.smallest, base, outcome, recorded)
    if as_json:
        print_json(outcome)
    else:
        where = log or new_log or os.path.join(outcome.get("kept", ""), LOG)
        again = ["drivebay", "lab", "powercut", where, "--disk", spec]
        _show(outcome, again + ([] if tear == TEAR else ["--tear", str(tear)]))
    return 1 if report.findings else 0


def _check_options(
    log: str | None,
    script: str | None,
    new_log: str | None,
    check: str | None,
    boot: str | None,
    name: str | None,
    output: str | None,
) -> None:
    if (log is None) == (script is None):
        raise CliError("what was written?", "name a LOG, or --run a command that writes")
    if log is not None and new_log is not None:
        raise CliError("--log goes with --run", "a LOG that is there needs no option")
    if output is not None and name is None:
        raise CliError("-o goes with --image", "which one is to be written?")
    if check is not None and boot is not None:
        raise CliError("--check and --boot are two checks", "choose one")
    if check is None and boot is None and output is None:
        raise CliError("nothing to check with", "--check 'e2fsck -fn {image}', or --boot COMMAND")


def _folder(stack: ExitStack) -> str:
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="drivebay-powercut-"))


def _record(script: str, base: Disk, log: str, memory: str, timeout: float, quiet: bool) -> None:
    from drivebay.cli.lab_powercut_guest import record

    def on_output(output: bytes) -> None:
        if not quiet:
            stream(output)

    record(script, base, log, memory=memory, timeout=timeout, on_output=on_output)


def _judge(check: str | None, boot: str | None, memory: str, timeout: float) -> Check:
    if boot is not None:
        from drivebay.cli.lab_powercut_guest import BootCheck

        return BootCheck(boot, memory=memory, timeout=timeout)
    from drivebay.lab.powercut_check import CommandCheck

    assert check is not None
    return CommandCheck(check, timeout)


def _named(history: History, name: str) -> Image:
    try:
        return history.image(name)
    except ValueError as error:
        raise CliError(
            f"--image {error}", "a name is what a report says: MOMENT:WRITE,..."
        ) from None


def _moment(history: History, text: str) -> int:
    """When the power is to fail."""
    what, _, value = text.partition("=")
    if what == "write" and value.isdecimal() and 0 < int(value) <= len(history.changes):
        return history.changes[int(value) - 1].began
    if what == "mark" and value:
        for mark in history.marks:
            if value.encode() in history.said(mark.moment):
                return mark.moment
    raise CliError(
        f"{text}: that never was",
        f"write=1 to write={len(history.changes)}, or mark=TEXT that was said",
    )


def _write(image: Image, base: Disk, path: str) -> None:
    from drivebay.lab.powercut_check import materialise

    try:
        materialise(image, base, path)
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}", "the image goes to a new file") from error


class _Told:
    """Says now and then how far it is."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PATIENCE

    def __call__(self, images: int, failed: int) -> None:
        if time.monotonic() >= self._next:
            progress(f"{images} images, {failed} failed")
            self._next = time.monotonic() + EVERY


# -- what came of it -------------------------------------------------------------------------------


def _outcome(report: Report, complete: bool, seed: int) -> dict[str, Any]:
    return {
        "images": report.images,
        "moments": report.cuts,
        "complete": complete,
        "seed": seed,
        "seconds": round(report.seconds, 1),
        "failed": [str(finding.image) for finding in report.findings],
        "smallest": report.smallest and _described(report.smallest),
        "tries": report.tries,
    }


def _described(finding: Finding) -> dict[str, Any]:
    cut = finding.image.cut
    history = cut.history
    return {
        "image": str(finding.image),
        "flushes": sum(flush.ended <= cut.moment for flush in history.flushes),
        "writes": sum(change.began <= cut.moment for change in history.changes),
        "unstable": len(cut.changes),
        "left": [_left(kept, cut.atoms(kept.change)) for kept in finding.image.kept],
        "said": finding.said,
    }


def _left(kept: Kept, atoms: int) -> dict[str, Any]:
    change = kept.change
    return {
        "write": change.number,
        "offset": change.offset,
        "length": change.length,
        "zeroes": change.data is None,
        "parts": atoms if kept.atoms is None else len(kept.atoms),
        "of": atoms,
    }


def _free(keep: str) -> str:
    """A name for a folder that nobody has."""
    names = itertools.chain([keep], (f"{keep}-{number}" for number in itertools.count(2)))
    return next(name for name in names if not os.path.lexists(name))


def _keep(
    folder: str, finding: Finding, base: Disk, outcome: dict[str, Any], log: str | None
) -> None:
    from drivebay.lab.powercut_check import materialise

    try:
        os.makedirs(folder)
        materialise(finding.image, base, os.path.join(folder, "smallest.img"))
        cut = finding.image.cut
        Path(folder, "said").write_bytes(cut.history.said(cut.moment))
        Path(folder, "report.json").write_text(json.dumps(outcome, indent=1) + "\n")
        if log is not None:
            shutil.copyfile(log, os.path.join(folder, LOG))
    except OSError as error:
        raise CliError(f"{folder}: {error.strerror}", "--keep DIR says where else") from error


def _some(count: int, what: str) -> str:
    ending = "es" if what.endswith("sh") else "s"
    return f"{count} {what if count == 1 else what + ending}"


def _show(outcome: dict[str, Any], again: Sequence[str]) -> None:
    failed, smallest = len(outcome["failed"]), outcome["smallest"]
    which = "all there are" if outcome["complete"] else f"seed {outcome['seed']}"
    click.echo(
        f"{_some(outcome['images'], 'image')} of {_some(outcome['moments'], 'moment')} ({which}), "
        f"{failed} failed, {outcome['seconds']} s"
    )
    if smallest is None:
        return
    click.echo(
        f"smallest: {smallest['image']}\n"
        f"  the power fails after {_some(smallest['flushes'], 'flush')} and"
        f" {_some(smallest['writes'], 'write')};"
        f" of {smallest['unstable']} that no flush has made stable, {len(smallest['left'])} left:"
    )
    for each in smallest["left"][:SHOWN]:
        what = "zeroes" if each["zeroes"] else "bytes"
        torn = f", {each['parts']} of {each['of']} parts" if each["parts"] < each["of"] else ""
        click.echo(
            f"    write {each['write']}: {each['length']} {what} at {each['offset']:#x}{torn}"
        )
    if len(smallest["left"]) > SHOWN:
        click.echo(f"    and {len(smallest['left']) - SHOWN} more")
    for line in smallest["said"].splitlines()[-SHOWN:]:
        click.echo(f"  | {line}")
    if "kept" in outcome:
        line = shlex.join([*again, "--image", smallest["image"]])
        click.echo(f"kept in {outcome['kept']}; again: {line} --check ...")
