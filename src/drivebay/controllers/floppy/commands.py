"""The commands of the 82077AA (table 5-1): what follows an opcode, and who does it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.controllers.floppy.registers import (
    Configuration,
    InterruptCode,
    Opcode,
    Perpendicular,
    Status0,
    Status1,
    Status3,
)
from drivebay.controllers.floppy.transfer import N_512, Modifiers, Select
from drivebay.controllers.floppy.transfers import TRANSFERS

if TYPE_CHECKING:
    from drivebay.controllers.floppy.controller import FloppyController

__all__ = ["COMMANDS", "NEEDS_MOTOR", "Command"]

VERSION: Final = 0x90  # an 82077AA
PART_ID: Final = 0x01
LOCK: Final = 0x80  # of the opcode
INWARDS: Final = 0x40  # of RELATIVE SEEK's
RECALIBRATE_STEPS: Final = 79
SEEK_END: Final = int(Status0.SE)
NO_TRACK_0: Final = int(Status0.of(IC=InterruptCode.ABNORMAL, SE=1, EC=1))
MT, MFM, SK = int(Modifiers.MT), int(Modifiers.MFM), int(Modifiers.SK)
OVERWRITE, DRIVES = int(Perpendicular.OW), int(Perpendicular.Drives)
MISSING_MARK: Final = int(Status1.MA)
CONFIGURATION: Final = sum(int(field) for field in Configuration.fields)

Handler = Callable[["FloppyController", int, bytes], "bytes | None"]
"""Takes the opcode and the parameters. Gives the result, which may be empty; None if the command
goes on and ends by itself.
"""


class Command(NamedTuple):
    """A command: its name, the opcode's bits that say how, and how many parameters follow."""

    opcode: Opcode
    modifiers: int
    parameters: int
    handler: Handler

    @property
    def name(self) -> str:
        """In words."""
        return self.opcode.name.replace("_", " ")


def invalid(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """There is no such command."""
    return bytes((Status0.of(IC=InterruptCode.INVALID),))


def transfer(fdc: FloppyController, opcode: int, parameters: bytes) -> None:
    """What goes to the disk."""
    base = opcode & ~(MT | MFM | SK)
    fdc.begin(TRANSFERS[base](opcode, parameters))


def specify(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Times, which nothing here takes, and ND."""
    fdc.settings.specify = parameters
    return b""


def sense_drive_status(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """ST3. An absent drive holds no line."""
    select = Select(parameters[0])
    drive = fdc.drives[select.DS]
    protected = drive is not None and drive.write_protected
    track0 = drive is not None and not drive.cylinder
    status = Status3.of(WP=protected, One=1, T0=track0, AlsoOne=1, HD=select.HDS, DS=select.DS)
    return bytes((status,))


def seek(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Step from the cylinder where the controller believes to be."""
    select = Select(parameters[0])
    fdc.seek(select.DS, parameters[1])
    fdc.seek_ended(select.DS, SEEK_END | select & Select.HDS)
    return b""


def relative_seek(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Step so many times. Not past track 0: that is where the drive says so."""
    select, cylinders = Select(parameters[0]), fdc.settings.cylinders
    by = parameters[1] if opcode & INWARDS else -parameters[1]
    short = cylinders[select.DS] + by < 0
    fdc.step(select.DS, by)
    cylinders[select.DS] = max(cylinders[select.DS] + by, 0) & 0xFF
    fdc.seek_ended(select.DS, (NO_TRACK_0 if short else SEEK_END) | select & Select.HDS)
    return b""


def recalibrate(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Step out until the drive says that it is there, 79 times at most."""
    select = Select(parameters[0])
    drive = fdc.drives[select.DS]
    fdc.step(select.DS, -RECALIBRATE_STEPS)
    fdc.settings.cylinders[select.DS] = 0
    found = drive is not None and not drive.cylinder
    fdc.seek_ended(select.DS, SEEK_END if found else NO_TRACK_0)
    return b""


def sense_interrupt_status(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """ST0 and the cylinder of a drive that has something to say."""
    return fdc.sense() or invalid(fdc, opcode, parameters)


def read_id(fdc: FloppyController, opcode: int, parameters: bytes) -> None:
    """The first ID that comes by."""
    select = Select(parameters[0])
    drive = fdc.drives[select.DS]
    there = fdc.finds_marks(select.DS, mfm=bool(opcode & MFM))
    if there and drive is not None and drive.formatted:
        found = bytes((drive.cylinder, select.HDS, 1, N_512))
        fdc.finish(select.DS, select.HDS, 0, 0, found)
    else:
        fdc.finish(select.DS, select.HDS, MISSING_MARK, 0, bytes(4))


def dump_registers(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """DUMPREG."""
    settings = fdc.settings
    return bytes(
        (
            *settings.cylinders,
            *settings.specify,
            settings.last_sector,
            settings.lock << 7 | settings.perpendicular,
            settings.configuration,
            settings.precompensation,
        )
    )


def configure(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Implied seeks and polling; there is no FIFO to fill and nothing to compensate."""
    fdc.settings.configuration = parameters[1] & CONFIGURATION
    fdc.settings.precompensation = parameters[2]
    return b""


def perpendicular_mode(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """Remembered. A medium of 2.88M is read and written without, too."""
    value = parameters[0]
    keep = 0 if value & OVERWRITE else DRIVES
    settings = fdc.settings
    settings.perpendicular = settings.perpendicular & keep | value & ~(keep | OVERWRITE) & 0x3F
    return b""


def lock(fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    """What CONFIGURE has set outlives a software reset."""
    fdc.settings.lock = bool(opcode & LOCK)
    return bytes((fdc.settings.lock << 4,))


def _constant(value: int, fdc: FloppyController, opcode: int, parameters: bytes) -> bytes:
    return bytes((value,))


_LIST: Final = (
    Command(Opcode.READ_TRACK, MFM, 8, transfer),
    Command(Opcode.SPECIFY, 0, 2, specify),
    Command(Opcode.SENSE_DRIVE_STATUS, 0, 1, sense_drive_status),
    Command(Opcode.WRITE_DATA, MT | MFM, 8, transfer),
    Command(Opcode.READ_DATA, MT | MFM | SK, 8, transfer),
    Command(Opcode.RECALIBRATE, 0, 1, recalibrate),
    Command(Opcode.SENSE_INTERRUPT_STATUS, 0, 0, sense_interrupt_status),
    Command(Opcode.WRITE_DELETED_DATA, MT | MFM, 8, transfer),
    Command(Opcode.READ_ID, MFM, 1, read_id),
    Command(Opcode.READ_DELETED_DATA, MT | MFM | SK, 8, transfer),
    Command(Opcode.FORMAT_TRACK, MT | MFM, 5, transfer),  # MT means nothing, and some set it
    Command(Opcode.DUMPREG, 0, 0, dump_registers),
    Command(Opcode.SEEK, 0, 2, seek),
    Command(Opcode.VERSION, 0, 0, partial(_constant, VERSION)),
    Command(Opcode.SCAN_EQUAL, MT | MFM | SK, 8, transfer),
    Command(Opcode.PERPENDICULAR_MODE, 0, 1, perpendicular_mode),
    Command(Opcode.CONFIGURE, 0, 3, configure),
    Command(Opcode.LOCK, LOCK, 0, lock),
    Command(Opcode.VERIFY, MT | MFM | SK, 8, transfer),
    Command(Opcode.PART_ID, 0, 0, partial(_constant, PART_ID)),
    Command(Opcode.SCAN_LOW_OR_EQUAL, MT | MFM | SK, 8, transfer),
    Command(Opcode.SCAN_HIGH_OR_EQUAL, MT | MFM | SK, 8, transfer),
    Command(Opcode.RELATIVE_SEEK, INWARDS, 2, relative_seek),
)

NEEDS_MOTOR: Final = {
    Opcode.READ_ID,
    *(command.opcode for command in _LIST if command.handler is transfer),
}
"""Those that wait for what comes by on the disk."""

COMMANDS: Final[dict[int, Command]] = {
    opcode: command
    for command in _LIST
    for opcode in range(256)
    if opcode & ~command.modifiers == command.opcode
}
"""By opcode; the others are invalid."""
