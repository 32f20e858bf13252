"""What the command line says of floppy drives: ``--floppy SPEC[,ro]``, A first and then B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import click

from drivebay.cli.errors import CliError
from drivebay.disk.contract import Disk
from drivebay.disk.spec import Attachment, parse_attachment

__all__ = ["FLOPPIES", "FloppyConfig", "floppy_option", "parse_floppies"]

FLOPPIES: Final = "floppy"
"""The name of their controller."""
MOST: Final = 2


@dataclass(frozen=True)
class FloppyConfig:
    """A drive with a disk in it."""

    unit: int
    attachment: Attachment
    read_only: bool = False

    @property
    def name(self) -> str:
        """What QEMU calls it."""
        return f"floppy{self.unit}"

    def open(self) -> Disk:
        """Its disk. Raises `CliError` if that is no floppy disk, and `DiskOpenError`."""
        from drivebay.controllers.floppy import medium_of
        from drivebay.disk.errors import InvalidInput

        disk = self.attachment.disk.open(self.read_only)
        try:
            medium_of(disk)
        except InvalidInput as error:
            disk.close()
            raise CliError(f"{self.attachment.text}: {error}", "mem:1440K is one") from None
        return disk


def floppy_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option, whose texts go to `function` as `floppies`."""
    return click.option(
        "--floppy",
        "floppies",
        multiple=True,
        metavar="SPEC[,ro]",
        help="A floppy disk in drive A, then B: an image of 360K to 2.88M.",
    )(function)


def parse_floppies(texts: Sequence[str]) -> list[FloppyConfig]:
    """The drives that `texts` describe. Raises `CliError` or `SpecError`."""
    if len(texts) > MOST:
        raise CliError(f"{len(texts)} floppy drives", "a PC has a cable for two")
    found = []
    for unit, text in enumerate(texts):
        attachment = parse_attachment(text)
        options = attachment.checked(("ro",), ())
        found.append(FloppyConfig(unit, attachment, bool(options.get("ro"))))
    return found
