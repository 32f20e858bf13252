"""Floppy drives that come and go in a PC, by QEMU's names and properties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from drivebay.controllers.floppy import FloppyDrive
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.machines.drives import Properties
from drivebay.machines.pc import Pc
from drivebay.platform.machine import MachineError

__all__ = ["FLOPPY", "FloppySlot", "plug_floppy"]

FLOPPY: Final = "floppy"
UNITS: Final = (0, 1)
"""The drives that a PC has a cable for."""


class FloppySlot:
    """The owner's side of a drive. It has no tray: an empty one counts as open."""

    removable, locked = True, False

    def __init__(self, pc: Pc, unit: int, drive: FloppyDrive) -> None:
        self._pc, self.unit, self._drive = pc, unit, drive
        self._opened = False

    @property
    def disk(self) -> Disk | None:
        """What is in it."""
        return self._drive.disk

    @property
    def tray_open(self) -> bool:
        """Whether a disk can be put in."""
        return self._opened or self.disk is None

    def request_eject(self) -> None:
        """The button works without us."""

    def move_tray(self, opened: bool) -> None:
        """Make ready for another disk; the guest notices when this one is taken out."""
        self._opened = opened

    def insert(self, disk: Disk) -> None:
        """Put a disk in. Raises `MachineError` if it is none for this drive."""
        try:
            self._pc.floppy.insert(self.unit, disk)
        except InvalidInput as error:
            raise MachineError(str(error)) from None

    def remove(self) -> Disk | None:
        """Take the disk out; None if there is none."""
        return self._pc.floppy.eject(self.unit)

    def unplug(self) -> None:
        """Take the drive off its cable."""
        self._pc.detach_floppy(self.unit)


def plug_floppy(pc: Pc, disk: Disk | None, options: Mapping[str, object]) -> FloppySlot:
    """Put a drive where ``unit`` says, or in the first free place. Raises `MachineError`."""
    properties = Properties(FLOPPY, options)
    wanted = properties.number("unit", -1, -1, UNITS[-1])
    properties.end()
    free = [unit for unit in UNITS if pc.floppy.drives[unit] is None and wanted in (-1, unit)]
    if not free:
        raise MachineError("a floppy drive sits on that unit already, or both are taken")
    try:
        drive = FloppyDrive(disk)
    except InvalidInput as error:
        raise MachineError(str(error)) from None
    pc.attach_floppy(free[0], drive)
    return FloppySlot(pc, free[0], drive)
