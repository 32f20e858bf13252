"""``drivebay lab trace``."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from typing import BinaryIO, cast

import click

from drivebay.cli.errors import CliError

__all__ = ["command"]


@click.command(name="trace")
@click.argument("file", metavar="FILE")
@click.option(
    "--to",
    "target",
    metavar="FILE",
    default="-",
    help="Append to this file, in the format that its name ends in.",
)
def command(file: str, target: str) -> None:
    """Show a trace, or make something else of it.

    It is what `serve --trace FILE.dbtrace` or `boot` has recorded. A line for each command, or by
    the name that --to gives it: .jsonl, a timeline for Perfetto as .json, packets for Wireshark as
    .pcapng. - is standard input, and standard output.

    \b
    drivebay lab trace boot.dbtrace
    drivebay lab trace boot.dbtrace --to boot.pcapng
    """
    from drivebay.lab.trace import TraceError, convert, format_of, read_records

    served = file == "-"
    if served:  # it ends when the server does, and not by a Ctrl-C that is meant for that
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        ending = format_of(target)
        with (
            _opened(file, "rb", sys.stdin.buffer) as source,
            _opened(target, "ab", sys.stdout.buffer) as stream,
        ):
            if served and target != "-":  # one before us may not have written all of its own
                fcntl.flock(stream, fcntl.LOCK_EX)
                stream.seek(0, os.SEEK_END)
            convert(read_records(source, stream.flush), stream, ending)
    except TraceError as error:
        raise CliError(f"{file}: {error}", error.hint) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CliError(f"{target}: {error.strerror}") from None


def _opened(path: str, mode: str, instead: BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    if path == "-":
        return contextlib.nullcontext(instead)
    try:
        return cast(BinaryIO, open(path, mode))
    except OSError as error:
        raise CliError(f"{path}: {error.strerror}") from None
