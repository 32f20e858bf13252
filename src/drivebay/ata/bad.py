"""Sectors that the host has declared bad: WRITE UNCORRECTABLE EXT (ACS-3 section 7.59)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.ata.command import Aborted
from drivebay.ata.media import MediaAccess
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.bad import TooManyRanges

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk

__all__ = ["WriteUncorrectable", "write_uncorrectable"]

WAYS: Final = (0x55, 0x5A, 0xA5, 0xAA)
"""Pseudo-uncorrectable and flagged, each with and without logging: here all are the same."""


class WriteUncorrectable(MediaAccess):
    """Makes its sectors bad."""

    async def finish(self) -> None:
        """Remember them."""
        try:
            self._drive.bad.add(self._span.lba, self._span.sectors)
        except TooManyRanges as error:
            raise Aborted(why=str(error)) from None


def write_uncorrectable(drive: AtaDisk, taskfile: TaskFile) -> WriteUncorrectable:
    """WRITE UNCORRECTABLE EXT. Raises `Aborted`."""
    if taskfile.features & 0xFF not in WAYS:
        raise Aborted(why=f"no way {taskfile.features:#04x} to be uncorrectable")
    span = drive.span(taskfile, True)
    drive.must_be_writable()
    return WriteUncorrectable(drive, taskfile, span)
