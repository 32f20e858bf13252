"""What the command line says of IDE drives: which disk, which place, which name plate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from drivebay.cli.errors import CliError
from drivebay.disk.scanner import SpecError
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["IDE_FLAGS", "IDE_KEYS", "IdeDrive", "ide_drive", "open_ide", "place"]

IDE_FLAGS: Final = ("ro", "p", "s", "0", "1", "dvd")
IDE_KEYS: Final = ("id", "serial", "model", "firmware", "on-error")

PLACES: Final = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Channel and unit of the four drives, in the order in which they fill up."""
CHANNELS: Final = ("primary", "secondary")
PLATE: Final = {"serial": 20, "model": 40, "firmware": 8}
"""ASCII characters that IDENTIFY has room for, ATA-7 section 6.17."""
MAX_SECTORS: Final = 1 << 48
"""A sector number has 48 bits, ATA-7 section 6.2."""
DVD_BLOCK: Final = 2048


@dataclass(frozen=True)
class IdeDrive:
    """A drive to put on an IDE channel. `channel` and `unit` are None where it may sit anywhere."""

    attachment: Attachment
    read_only: bool = False
    channel: int | None = None
    unit: int | None = None
    dvd: bool = False
    serial: str | None = None
    model: str | None = None
    firmware: str | None = None
    on_error: str = "report"
    """``report`` fails the guest's command, ``stop`` stops the machine and tries again."""
    id: str = ""

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
    text: dict[str, str | None] = {}
    for name, room in PLATE.items():
        value = options.get(name)
        text[name] = None if value is None else str(value)
        if value and not (str(value).isascii() and str(value).isprintable()):
            raise CliError(f"{name} {value!r} is not ASCII", "IDENTIFY has room for nothing else")
        if len(str(value or "")) > room:
            raise CliError(f"{name} {value!r} is too long", f"{room} characters at most")
    on_error = str(options.get("on-error", "report"))
    if on_error not in ("stop", "report"):
        at = next(option.position for option in attachment.options if option.name == "on-error")
        raise SpecError(attachment.text, at + len("on-error="), "stop or report")
    return IdeDrive(
        attachment,
        read_only=bool(options.get("ro")),
        channel=_one_of(attachment, options, ("p", "s")),
        unit=_one_of(attachment, options, ("0", "1")),
        dvd=bool(options.get("dvd")),
        on_error=on_error,
        id=str(options.get("id", "")),
        **text,
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
    names = [drive.name for drive in found]
    for name in names:
        if names.count(name) > 1:
            raise CliError(f"two drives have the id {name}", "give each an id=NAME of its own")
    return found


def _suits(drive: IdeDrive, where: tuple[int, int]) -> bool:
    return drive.channel in (None, where[0]) and drive.unit in (None, where[1])


def _taken(drive: IdeDrive, placed: Mapping[tuple[int, int], IdeDrive]) -> CliError:
    wanted = [spot for spot in PLACES if _suits(drive, spot)]
    places = " and ".join(f"{CHANNELS[channel]} unit {unit}" for channel, unit in wanted)
    others = " and ".join(placed[spot].attachment.text for spot in wanted)
    free = [f"{'ps'[channel]},{unit}" for channel, unit in PLACES if (channel, unit) not in placed]
    return CliError(
        f"{drive.attachment.text}: {places} taken by {others}", f"still free: {' or '.join(free)}"
    )


def open_ide(drive: IdeDrive) -> Disk:
    """Open the disk of a drive. Raises `CliError` for one that no such drive can hold, and
    `DiskOpenError`.
    """
    disk = drive.attachment.disk.open(drive.read_only or drive.dvd)
    text = drive.attachment.disk.text
    error = None
    if drive.dvd and disk.byte_count % DVD_BLOCK:
        error = CliError(
            f"{text}: {disk.byte_count} bytes are no DVD",
            f"a DVD is a whole number of blocks of {DVD_BLOCK} bytes; without dvd it is a disk",
        )
    elif disk.sector_count > MAX_SECTORS:
        error = CliError(
            f"{text}: {disk.sector_count} sectors are more than an ATA drive can have",
            "2^48 sectors, as many as a sector number has bits for",
        )
    if error is not None:
        disk.close()
        raise error
    return disk
