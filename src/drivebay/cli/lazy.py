"""Groups of commands that are imported only when they are called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """Knows its `lines`, a line for each command's name, so that ``--help`` imports none of them.

    Each is the ``command`` of a module, whose name is `prefix` and the command's.
    """

    def __init__(
        self, *, lines: Mapping[str, str], prefix: str = "drivebay.cli.", **attributes: Any
    ) -> None:
        super().__init__(**attributes)
        self._lines, self._prefix = lines, prefix

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names."""
        return list(self._lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one."""
        if cmd_name not in self._lines:
            return None
        module = importlib.import_module(self._prefix + cmd_name.replace("-", "_"))
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._lines.items()))
