"""``drivebay lab``: watch, break, cut the power, replay, compare."""

from __future__ import annotations

from typing import Final

import click

from drivebay.cli.lazy import LazyGroup

__all__ = ["command"]

COMMANDS: Final = {
    "compare": "Compare storage controllers: the same jobs on the same disk.",
    "replay": "Replay a recording of a controller, and see whether it does the same.",
    "trace": "Show a trace of commands, or make packets or a timeline of it.",
    "powercut": "Check everything that a power cut may leave of a disk.",
}
"""Each is the ``command`` of the module ``lab_NAME``."""


@click.group(name="lab", cls=LazyGroup, lines=COMMANDS, prefix="drivebay.cli.lab_")
def command() -> None:
    """Watch disks and controllers at work, and torment them."""
