"""Kinds of disk that are files, or memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from drivebay.disk.scanner import Kind, Opener, Scanner, sector_size

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["FILE", "KINDS", "FileOpener"]


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
    path = scanner.word("a path")
    options = scanner.options(
        {"direct": None, "cache": _cache_mode, "create": Scanner.size, "sector": sector_size}
    )
    values = {name: option.value for name, option in options.items()}
    if values.pop("direct", False):
        if "cache" in values:
            second = max(options["direct"].position, options["cache"].position)
            raise scanner.error("one of direct and cache=", second, "direct means cache=none")
        values["cache"] = "none"
    if "sector" in values:
        values["sector_size"] = values.pop("sector")

    return FileOpener(path, values)


@dataclass(frozen=True)
class FileOpener:
    """Opens the file at `path` with `options`."""

    path: str
    options: Mapping[str, Any]

    def __call__(self, read_only: bool, ragged: bool = False) -> Disk:
        """Open it; an image may be `ragged`, which is to end in the middle of a sector."""
        from drivebay.disk.backends.file import FileDisk

        return FileDisk(self.path, read_only=read_only, ragged=ragged, **self.options)


def _iso(scanner: Scanner) -> Opener:
    """``iso:PATH``: what is always read-only, in sectors of 2048 bytes."""
    path = scanner.word("a path")

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.backends.file import FileDisk

        return FileDisk(path, read_only=True, sector_size=2048)

    return opener


def _cache_mode(scanner: Scanner) -> str:
    from drivebay.disk.backends.file import CACHE_MODES

    start = scanner.position
    if (mode := scanner.name()) not in CACHE_MODES:
        raise scanner.error(f"one of {', '.join(CACHE_MODES)}", start)
    return mode


FILE: Final = Kind("file", "file:PATH[;direct][;cache=MODE][;create=SIZE][;sector=N]", _file)
KINDS: Final = (
    Kind("mem", "mem:SIZE[;sector=N]", _mem),
    FILE,
    Kind("iso", "iso:PATH", _iso),
)
