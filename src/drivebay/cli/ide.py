"""What the command line says of IDE drives: which channel, which unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from drivebay.cli.drives import DRIVE_FLAGS, DRIVE_KEYS, Drive, check_names, said_of, taken
from drivebay.cli.errors import CliError
from drivebay.cli.functions import (
    Built,
    FunctionServer,
    ata_dialect,
    ata_places,
    check_drives,
    qemu,
)
from drivebay.cli.kind import ControllerConfig, Kind
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.ata.device import Device
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory

__all__ = ["KIND", "IdeDrive"]

IDE_FLAGS: Final = ("p", "s", "0", "1", *DRIVE_FLAGS)
IDE_KEYS: Final = DRIVE_KEYS

PLACES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Channel and unit of the four drives, in the order in which they fill up."""
CHANNELS: Final = ("primary", "secondary")


@dataclass(frozen=True)
class IdeDrive(Drive):
    """A drive to put on an IDE channel. `channel` and `unit` are None where it may sit anywhere."""

    channel: int | None = None
    unit: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Channel and unit, once `place` has given it one."""
        assert self.channel is not None
        assert self.unit is not None
        return self.channel, self.unit

    @property
    def name(self) -> str:
        """Its id, or what QEMU calls a drive in this place: ``ide0-hd1``, ``ide1-cd0``."""
        channel, unit = self.place
        return self.id or f"ide{channel}-{'cd' if self.dvd else 'hd'}{unit}"


def ide_drive(attachment: Attachment, options: Mapping[str, str | bool]) -> IdeDrive:
    """The drive that checked options describe. Raises `CliError` or `SpecError`."""
    return IdeDrive(
        **said_of(attachment, options),
        channel=_one_of(attachment, options, ("p", "s")),
        unit=_one_of(attachment, options, ("0", "1")),
    )


def _one_of(
    attachment: Attachment, options: Mapping[str, str | bool], names: tuple[str, str]
) -> int | None:
    """Which of two flags is set, if one is."""
    chosen = [number for number, name in enumerate(names) if options.get(name)]
    if len(chosen) == 2:
        raise CliError(f"{attachment.text}: {names[0]} and {names[1]}", "a drive has one place")
    return chosen[0] if chosen else None


def place(drives: Iterable[IdeDrive]) -> list[IdeDrive]:
    """The drives by place; those without one get the first that is free and suits them.

    Raises `CliError` if two want the same place, or there are more drives than places.
    """
    drives = list(drives)
    if len(drives) > len(PLACES):
        raise CliError(f"{len(drives)} IDE drives", "two channels take two drives each")
    placed: dict[tuple[int, int], IdeDrive] = {}
    # Those who leave least to choose come first, so that nobody takes the only place of another.
    for drive in sorted(drives, key=lambda drive: (drive.channel is None) + (drive.unit is None)):
        where = next((spot for spot in PLACES if spot not in placed and _suits(drive, spot)), None)
        if where is None:
            raise _taken(drive, placed)
        placed[where] = replace(drive, channel=where[0], unit=where[1])
    found = [placed[spot] for spot in PLACES if spot in placed]
    check_names(found)
    return found


def _suits(drive: IdeDrive, where: tuple[int, int]) -> bool:
    return drive.channel in (None, where[0]) and drive.unit in (None, where[1])


def _taken(drive: IdeDrive, placed: Mapping[tuple[int, int], IdeDrive]) -> CliError:
    wanted = [spot for spot in PLACES if _suits(drive, spot)]
    places = " and ".join(f"{CHANNELS[channel]} unit {unit}" for channel, unit in wanted)
    free = [f"{'ps'[channel]},{unit}" for channel, unit in PLACES if (channel, unit) not in placed]
    return taken(drive, places, (placed[spot] for spot in wanted), free)


def build(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Built:
    """The function with its drives, which may be pulled, and others plugged in."""
    from drivebay.controllers.ide import PIIX4_NATIVE, PiixIde
    from drivebay.platform.interrupts import Line

    nowhere = (Line(lambda _level: None), Line(lambda _level: None))  # they are of compatibility
    piix = PiixIde(memory, nowhere, PIIX4_NATIVE, switchable=True)

    def attach(drive: IdeDrive, device: Device) -> None:
        piix.attach(*drive.place, device)

    places = ata_places(
        attach,
        engine,
        lambda drive: f"{'ps'[drive.place[0]]}{drive.place[1]}",
        lambda drive: piix.detach(*drive.place),
    )
    return piix, places.fill(controller.disks)


KIND: Final = Kind(
    name="ide",
    form="SPEC[,ro][,p|s][,0|1][,dvd][,serial=S][,model=M][,firmware=F][,on-error=stop|report]"
    "[,id=NAME][,socket=PATH][,allow=CATEGORY+...][,dry-run]",
    help="An IDE drive on the primary or secondary channel, unit 0 or 1.",
    attach=ide_drive,
    place=place,
    at=",".join,
    serve=FunctionServer(build),
    dialect=ata_dialect,
    check=check_drives,
    qemu=qemu,
    disk_flags=IDE_FLAGS,
    disk_keys=IDE_KEYS,
    vfio_user=True,
)
