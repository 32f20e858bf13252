"""The `drivebay` command. Subcommands are imported only when they are called."""

from __future__ import annotations

import sys
from typing import Final

import click

from drivebay import __version__
from drivebay.cli.lazy import LazyGroup

__all__ = ["cli", "main"]

COMMANDS: Final = {
    "boot": "Serve disks and start a guest on them, in one go.",
    "completion": "Print the completion script of a shell.",
    "ctl": "Ask a running server for anything that its control socket can do.",
    "demo": "Boot a small Linux guest on a drivebay disk and show what it does.",
    "disk": "Look at disks, create, copy, compare, check and change them.",
    "inspect": "Show what a running server serves.",
    "lab": "Watch disks and controllers at work, and torment them.",
    "nbd": "Serve a disk to programs that speak NBD.",
    "qtest": "Run a machine for device tests written for QEMU's qtest.",
    "serve": "Serve controllers with disks to virtual machines.",
}


@click.group(
    cls=LazyGroup, lines=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", count=True, help="Log more; twice: every protocol message.")
def cli(verbose: int) -> None:
    """A drive bay for virtual machines: storage controllers over any disk."""
    import logging

    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="drivebay: %(message)s")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 1 for every error, usage errors too."""
    try:
        status = cli.main(args=arguments, prog_name="drivebay", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except click.exceptions.NoArgsIsHelpError as help:
        sys.stderr.write(f"{help.format_message()}\n")
        return 1
    except click.ClickException as error:
        return _say(" ".join(error.format_message().split()), _usage_hint(error))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except Exception as error:
        from drivebay.cli.errors import ToldAlready, told

        known = told(error)
        if known is None:
            raise
        if isinstance(known, ToldAlready):
            return 1
        return _say(str(known), known.hint, known.status)
    return status if isinstance(status, int) else 0


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context else "--help after the command shows more"


def _say(message: str, hint: str, status: int = 1) -> int:
    sys.stderr.write(f"drivebay: error: {message}\n")
    if hint:
        sys.stderr.write(f"hint: {hint}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
