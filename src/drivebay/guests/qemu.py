"""QEMU: the installed one, or a newer one beside the system, run through its own loader."""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drivebay.guests import debian
from drivebay.guests.cache import Progress, silent
from drivebay.guests.elf import LOADER
from drivebay.guests.errors import GuestError
from drivebay.guests.process import capture

SYSTEM = "qemu-system-x86_64"
WANTED = (10, 1)  # the first with vfio-user-pci
OLDEST = (4, 2)

_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Qemu:
    """One QEMU: its version and how its programs are called.

    `root` is the folder that it is unpacked in, or None for the installed one.
    """

    version: tuple[int, int]
    root: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_vfio_user(self) -> bool:
        """Whether it can attach PCI devices of another process (vfio-user-pci)."""
        return self.version >= WANTED

    def command(self, program: str = SYSTEM) -> list[str]:
        """Return the first arguments that run `program`, such as `qemu-img`.

        It needs the variables in `environment` besides the usual ones.
        """
        if self.root is None:
            return [program]
        loader = self.root / "usr/lib64" / LOADER
        command = [os.fspath(loader), "--library-path", os.fspath(self.root / _LIBRARIES)]
        command += ["--argv0", program, os.fspath(self.root / "usr/bin" / program)]
        if program == SYSTEM:
            for share in ("qemu", "seabios"):
                command += ["-L", os.fspath(self.root / "usr/share" / share)]
        return command

    def firmware(self, path: str) -> Path:
        """Return a firmware file by its path below /usr/share, such as `OVMF/OVMF_CODE.fd`."""
        return (self.root or Path("/")) / "usr/share" / path


def find_qemu(progress: Progress = silent) -> Qemu:
    """Return the installed QEMU if it is 10.1 or newer, else 11.1 from the cache.

    Where the latter cannot be had, an installed one of 4.2 or newer serves; GuestError without.
    """
    installed = _installed()
    if installed and installed.version >= WANTED:
        return installed
    try:
        return _unpacked(debian.tree(debian.QEMU, progress))
    except GuestError as error:
        if installed and installed.version >= OLDEST:
            progress(
                f"QEMU {WANTED[0]}.{WANTED[1]} cannot be had, using the installed one: {error}"
            )
            return installed
        raise


@functools.cache
def _installed() -> Qemu | None:
    if not shutil.which(SYSTEM):
        return None
    version = _version([SYSTEM])
    return Qemu(version) if version else None


@functools.cache
def _unpacked(root: Path) -> Qemu:
    environment = {"QEMU_MODULE_DIR": os.fspath(root / _LIBRARIES / "qemu")}
    version = _version(Qemu((0, 0), root).command())
    if version is None:
        raise GuestError(f"the QEMU in {root} does not start", "remove the folder to fetch it anew")
    return Qemu(version, root, environment)


def _version(command: list[str]) -> tuple[int, int] | None:
    try:
        done = capture([*command, "--version"])
    except OSError:
        return None
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else None
