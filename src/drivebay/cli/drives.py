"""What the command line says of ATA and ATAPI drives: which disk, which name plate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from drivebay.cli.errors import CliError
from drivebay.cli.passthrough import POLICY_FLAGS, POLICY_KEYS, Passed, passed
from drivebay.disk.scanner import SpecError
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.ata.device import Device
    from drivebay.disk.contract import Disk
    from drivebay.platform.engine import Engine

__all__ = [
    "DRIVE_FLAGS",
    "DRIVE_KEYS",
    "Attached",
    "Drive",
    "check_dvd",
    "check_names",
    "open_drive",
    "said_of",
    "taken",
]

DRIVE_FLAGS: Final = ("ro", "dvd", *POLICY_FLAGS)
DRIVE_KEYS: Final = ("id", "serial", "model", "firmware", "on-error", *POLICY_KEYS)

PLATE: Final = {"serial": 20, "model": 40, "firmware": 8}
"""ASCII characters that IDENTIFY has room for, ATA-7 section 6.17."""
MAX_SECTORS: Final = 1 << 48
"""A sector number has 48 bits, ATA-7 section 6.2."""
DVD_BLOCK: Final = 2048


@dataclass(frozen=True)
class Drive:
    """A drive to put on a controller; its kind of controller knows where."""

    attachment: Attachment
    read_only: bool = False
    dvd: bool = False
    serial: str | None = None
    model: str | None = None
    firmware: str | None = None
    on_error: str = "report"
    """``report`` fails the guest's command, ``stop`` stops the machine and tries again."""
    id: str = ""
    passed: Passed | None = None
    """Set if it is a drive of the host's, which has no disk of ours."""

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.id or self.attachment.text

    def device(self, disk: Disk, engine: Engine) -> Device:
        """The drive around its open disk. Raises `CliError` for one that it cannot hold."""
        from drivebay.ata.disk import AtaDisk
        from drivebay.ata.packet import PacketDevice
        from drivebay.disk.errors import InvalidInput
        from drivebay.scsi.dvd import Dvd, PhysicalInterface

        plate = {name: text for name in PLATE if (text := getattr(self, name)) is not None}
        try:
            if self.dvd:
                return PacketDevice(Dvd(disk, interface=PhysicalInterface.ATAPI), engine, **plate)
            return AtaDisk(disk, engine, **plate)
        except InvalidInput as error:
            raise CliError(f"{self.attachment.disk.text}: {error}") from None


def said_of(attachment: Attachment, options: Mapping[str, str | bool]) -> dict[str, Any]:
    """The fields of a `Drive` that checked options describe. Raises `CliError` or `SpecError`."""
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
    return {
        "attachment": attachment,
        "read_only": bool(options.get("ro")),
        "dvd": bool(options.get("dvd")),
        "on_error": on_error,
        "id": str(options.get("id", "")),
        "passed": passed(attachment, options),
        **text,
    }


def check_names(drives: Iterable[Drive]) -> None:
    """Raise `CliError` if two drives have the same name."""
    names = [drive.name for drive in drives]
    for name in names:
        if names.count(name) > 1:
            raise CliError(f"two drives have the id {name}", "give each an id=NAME of its own")


class Attached(Protocol):
    """A disk that the command line has put somewhere."""

    @property
    def attachment(self) -> Attachment:
        """What was said."""


def taken(
    drive: Attached, places: str, others: Iterable[Attached], free: Iterable[str]
) -> CliError:
    """What to say of a drive whose places others have."""
    whose = " and ".join(other.attachment.text for other in others)
    return CliError(
        f"{drive.attachment.text}: {places} taken by {whose}", f"still free: {' or '.join(free)}"
    )


def open_drive(drive: Drive) -> Disk:
    """Open the disk of a drive. Raises `CliError` for one that no such drive can hold, and
    `DiskOpenError`.
    """
    disk = drive.attachment.disk.open(drive.read_only or drive.dvd)
    text = drive.attachment.disk.text
    try:
        if drive.dvd:
            check_dvd(text, disk)
        elif disk.sector_count > MAX_SECTORS:
            raise CliError(
                f"{text}: {disk.sector_count} sectors are more than an ATA drive can have",
                "2^48 sectors, as many as a sector number has bits for",
            )
    except CliError:
        disk.close()
        raise
    return disk


def check_dvd(text: str, disk: Disk) -> None:
    """Raise `CliError` if `disk` cannot be a DVD."""
    if disk.byte_count % DVD_BLOCK:
        raise CliError(
            f"{text}: {disk.byte_count} bytes are no DVD",
            f"a DVD is a whole number of blocks of {DVD_BLOCK} bytes; without dvd it is a disk",
        )
