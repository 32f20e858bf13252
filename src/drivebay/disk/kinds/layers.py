"""Kinds of disk that are layers over another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import Kind, Opener, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["KINDS"]


def _memdiff(scanner: Scanner) -> Opener:
    """``memdiff:DISK``."""
    below = scanner.disk()

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.layered import LayeredDisk
        from drivebay.disk.layers.ram import RamLayer

        base = below.open(read_only=True)
        try:
            top = RamLayer(base.byte_count, sector_size=base.sector_size)
            return LayeredDisk.over(top, base, read_only=read_only)
        except DiskOpenError:
            base.close()
            raise

    return opener


KINDS: Final = (Kind("memdiff", "memdiff:DISK", _memdiff),)
