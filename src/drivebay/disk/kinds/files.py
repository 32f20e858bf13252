"""Kinds of disk that are files, or memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from drivebay.disk.scanner import Kind, Opener, Scanner, sector_size

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["FILE", "KINDS", "FileOpener", "SgOpener", "cache_mode"]


def _mem(scanner: Scanner) -> Opener:
    """``mem:SIZE[;sector=N]``."""
    start = scanner.position
    size = scanner.size()
    options = scanner.options({"sector": sector_size})
    sector = options["sector"].value if "sector" in options else 512
    if size == 0 or size % sector:
        raise scanner.error(f"a whole number of sectors of {sector} bytes", start)

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.backends.ram import RamDisk

        return RamDisk(size, sector_size=sector, read_only=read_only)

    return opener


def _file(scanner: Scanner) -> Opener:
    """``file:PATH[;direct][;cache=MODE][;create=SIZE][;sector=N]``."""
    return FileOpener(*_path(scanner, create=Scanner.size))


def _block(scanner: Scanner) -> Opener:
    """``block:PATH[;direct][;cache=MODE][;sector=N]``."""
    return FileOpener(*_path(scanner), device=True)


def _path(scanner: Scanner, **more: Callable[[Scanner], Any]) -> tuple[str, dict[str, Any]]:
    """A path and what belongs to it."""
    path = scanner.word("a path")
    options = scanner.options({"direct": None, "cache": cache_mode, **more, "sector": sector_size})
    values = {name: option.value for name, option in options.items()}
    if values.pop("direct", False):
        if "cache" in values:
            second = max(options["direct"].position, options["cache"].position)
            raise scanner.error("one of direct and cache=", second, "direct means cache=none")
        values["cache"] = "none"
    if "sector" in values:
        values["sector_size"] = values.pop("sector")
    return path, values


@dataclass(frozen=True)
class FileOpener:
    """Opens the file or block device at `path` with `options`; a `device` is always one."""

    path: str
    options: Mapping[str, Any]
    device: bool = False

    def __call__(self, read_only: bool, ragged: bool = False) -> Disk:
        """Open it; an image may be `ragged`, which is to end in the middle of a sector."""
        if self.device or _is_device(self.path):
            from drivebay.disk.backends.block import BlockDisk

            return BlockDisk(self.path, read_only=read_only, **self.options)
        from drivebay.disk.backends.file import FileDisk

        return FileDisk(self.path, read_only=read_only, ragged=ragged, **self.options)


def _is_device(path: str) -> bool:
    with suppress(OSError, ValueError):
        return stat.S_ISBLK(os.stat(path).st_mode)
    return False


def _iso(scanner: Scanner) -> Opener:
    """``iso:PATH``: what is always read-only, in sectors of 2048 bytes."""
    image = FileOpener(scanner.word("a path"), {"sector_size": 2048})
    return lambda read_only: image(read_only=True)


def cache_mode(scanner: Scanner) -> str:
    """Read the name of one of QEMU's cache modes."""
    from drivebay.disk.backends.file import CACHE_MODES

    start = scanner.position
    if (mode := scanner.name()) not in CACHE_MODES:
        raise scanner.error(f"one of {', '.join(CACHE_MODES)}", start)
    return mode


@dataclass(frozen=True)
class SgOpener:
    """A drive of the host, which a controller passes commands to: nothing else can open it."""

    path: str

    def __call__(self, read_only: bool) -> Disk:
        """Raises `DiskOpenError`."""
        from drivebay.disk.errors import DiskOpenError

        raise DiskOpenError(
            f"sg:{self.path}: it takes commands, and is no disk to read and write",
            "--ahci or --ide of drivebay serve and boot; as a disk it is block:/dev/sdX",
        )


def _sg(scanner: Scanner) -> Opener:
    """``sg:PATH``."""
    return SgOpener(scanner.word("a path such as /dev/sg0"))


FILE: Final = Kind("file", "file:PATH[;direct][;cache=MODE][;create=SIZE][;sector=N]", _file)
KINDS: Final = (
    Kind("mem", "mem:SIZE[;sector=N]", _mem),
    FILE,
    Kind("block", "block:PATH[;direct][;cache=MODE][;sector=N]", _block),
    Kind("iso", "iso:PATH", _iso),
    Kind("sg", "sg:PATH", _sg),
)
