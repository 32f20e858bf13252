"""``drivebay completion SHELL``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from drivebay.cli.main import cli

__all__ = ["command"]


@click.command(name="completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL: bash, zsh or fish.

    Put it to use with: eval "$(drivebay completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "drivebay", "_DRIVEBAY_COMPLETE").source())
