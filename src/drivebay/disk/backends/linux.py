"""What Python's `os` lacks: fallocate with a mode, and which file system a file is on."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

__all__ = ["KEEP_SIZE", "PUNCH_HOLE", "ZERO_RANGE", "fallocate", "file_system"]

KEEP_SIZE: Final = 0x01
PUNCH_HOLE: Final = 0x02
ZERO_RANGE: Final = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2). Raises `OSError`."""
    while _fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def file_system(fd: int) -> str:
    """The type of the file system that holds `fd`, as in ``ext4``; empty if it cannot be told."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as mounts:
            for line in mounts:
                fields, _, rest = line.partition(" - ")
                if fields.split(" ")[2] == wanted:
                    return rest.split(" ")[0]
    except OSError:
        pass
    return ""
