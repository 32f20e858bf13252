"""What the command line says of drives that are real ones: ``sg:/dev/sg0,allow=write+erase``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivebay.cli.errors import CliError
from drivebay.disk.errors import DiskOpenError, InvalidInput
from drivebay.disk.kinds.files import SgOpener
from drivebay.disk.scanner import SpecError
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.ata.passthrough import PassthroughDrive
    from drivebay.platform.engine import Engine

__all__ = ["POLICY_FLAGS", "POLICY_KEYS", "Passed", "passed"]

POLICY_FLAGS: Final = ("dry-run",)
POLICY_KEYS: Final = ("allow",)
WHERE: Final = ("id", "ro", "p", "s", "0", "1", "port", "socket", "on", *POLICY_FLAGS, *POLICY_KEYS)
"""What can be said of a drive whose name plate and medium are its own."""


@dataclass(frozen=True)
class Passed:
    """The host's device at `path`, and what the guest may do to it besides reading."""

    path: str
    allow: tuple[str, ...] = ()
    dry_run: bool = False

    def drive(self, engine: Engine, opened: ExitStack) -> PassthroughDrive:
        """The drive; the device is closed with `opened`. Raises `DiskOpenError` if it cannot be
        reached, or is no ATA disk.
        """
        from drivebay.ata.passthrough import MAX_TRANSFER, PassthroughDrive, Policy, identify
        from drivebay.disk.backends import sg

        device = sg.SgDevice(self.path)
        opened.callback(device.close)
        try:
            return PassthroughDrive(
                device,
                engine,
                identify(device),
                Policy.of(*self.allow, dry_run=self.dry_run),
                max_transfer=min(device.max_transfer or MAX_TRANSFER, MAX_TRANSFER),
            )
        except (OSError, InvalidInput) as error:
            why = getattr(error, "strerror", None) or error
            raise DiskOpenError(
                f"{self.path}: {why}", "only ATA disks are passed through"
            ) from error


def passed(attachment: Attachment, options: Mapping[str, str | bool]) -> Passed | None:
    """What checked options say of a drive of the host's; None if it is none. Raises `CliError` or
    `SpecError`.
    """
    opener = attachment.disk.opener
    if not isinstance(opener, SgOpener):
        for name in (*POLICY_FLAGS, *POLICY_KEYS):
            if name in options:
                raise CliError(
                    f"{attachment.text}: {name} is for drives of the host", "sg:/dev/sg0"
                )
        return None
    for name in options:
        if name not in WHERE:
            raise CliError(
                f"{attachment.text}: {name} is the drive's own", "allow= and dry-run are not"
            )
    allow = tuple(str(options["allow"]).split("+")) if "allow" in options else ()
    if allow and options.get("ro"):
        raise CliError(f"{attachment.text}: ro and allow=", "without allow= it is only read")
    _check(attachment, allow)
    return Passed(opener.path, allow, bool(options.get("dry-run")))


def _check(attachment: Attachment, allow: tuple[str, ...]) -> None:
    from drivebay.ata.passthrough import Category

    known = [category.value for category in Category]
    for name in allow:
        if name not in known:
            at = next(option.position for option in attachment.options if option.name == "allow")
            raise SpecError(
                attachment.text, at + len("allow="), f"some of {', '.join(known)}, joined by +"
            )
