"""A disk in memory: as sparse as it is written, gone when it is closed."""

from __future__ import annotations

import os

from drivebay.disk.backends.fd import FdDisk, check_size
from drivebay.disk.errors import DiskOpenError

__all__ = ["RamDisk"]


class RamDisk(FdDisk):
    """`size` bytes in a memfd. Holes take no memory and read zero; an unmap makes holes.

    It has no volatile cache: nothing makes a write more stable than it is once it has completed.

    Raises `DiskOpenError` unless `size` is a whole number of sectors, at least one.
    """

    kind = "mem"
    persistent = False

    def __init__(self, size: int, *, sector_size: int = 512, read_only: bool = False) -> None:
        check_size("mem", size, sector_size)
        fd = os.memfd_create("drivebay-disk", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            os.close(fd)
            raise DiskOpenError(f"mem: {size} bytes: {error.strerror}") from error
        super().__init__(
            fd,
            "mem",
            size,
            sector_size=sector_size,
            read_only=read_only,
            memory=True,
            write_cache=False,
            syncs=False,
        )
