"""Registers that a guest works without us: memory in a file that its monitor maps for it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

__all__ = ["SharedRegion"]


class SharedRegion:
    """An `MmioRegion` of `size` bytes (whole pages) in a file of its own.

    `areas` are the parts that may be mapped, offset and size of each in whole pages; all of it if
    there are none. A subclass may answer accesses to the rest itself: where a host maps the areas,
    nobody is told of accesses there, and the device looks at `memory` when it must know.

    Raises `ValueError` for what is not whole pages.
    """

    def __init__(self, size: int, areas: Sequence[tuple[int, int]] = ()) -> None:
        page = mmap.PAGESIZE
        for offset, length in [(0, size), *areas]:
            if offset % page or length % page or length <= 0 or offset + length > size:
                raise ValueError(f"a shared area of {length} bytes at {offset:#x}")
        self.size = size
        self.areas = tuple(areas) or ((0, size),)
        self.fd = os.memfd_create("region", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self.memory = memoryview(mmap.mmap(self.fd, size))

    def mmio_read(self, offset: int, width: int) -> int:
        """What is there."""
        return int.from_bytes(self.memory[offset : offset + width], "little")

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Store it."""
        self.memory[offset : offset + width] = value.to_bytes(width, "little")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)
