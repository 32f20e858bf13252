"""Accesses counted where they pass: in front of a board's ports, or of a block of registers.

Both stand in the place of what they watch, and only while somebody counts.
"""

from __future__ import annotations

from drivebay.drivers.pci import Ports
from drivebay.platform.mmio import MmioRegion
from drivebay.platform.ports import Hold

__all__ = ["CountedPorts", "CountedRegion", "Meter"]


class Meter:
    """How many accesses there were, of how many bytes together; and interrupts."""

    def __init__(self) -> None:
        self.accesses = self.bytes = self.interrupts = 0

    def access(self, width: int, count: int = 1) -> None:
        """`count` accesses of `width` bytes."""
        self.accesses += count
        self.bytes += width * count

    def clear(self) -> None:
        """Begin anew."""
        self.accesses = self.bytes = self.interrupts = 0


class CountedPorts:
    """`inner`, with `meter` told of each access; a string form is as many as it has items."""

    def __init__(self, inner: Ports, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    def read(self, port: int, width: int) -> int:
        """IN."""
        self._meter.access(width)
        return self._inner.read(port, width)

    def write(self, port: int, width: int, value: int) -> Hold | None:
        """OUT."""
        self._meter.access(width)
        return self._inner.write(port, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        """REP INS."""
        self._meter.access(width, len(buffer) // width)
        self._inner.read_string(port, width, buffer)

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        """REP OUTS."""
        self._meter.access(width, len(data) // width)
        self._inner.write_string(port, width, data)


class CountedRegion:
    """The registers `inner`, with `meter` told of each access."""

    def __init__(self, inner: MmioRegion, meter: Meter) -> None:
        self._inner, self._meter = inner, meter

    @property
    def size(self) -> int:
        """Length of the block in bytes."""
        return self._inner.size

    def mmio_read(self, offset: int, width: int) -> int:
        """A load."""
        self._meter.access(width)
        return self._inner.mmio_read(offset, width)

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        self._meter.access(width)
        self._inner.mmio_write(offset, width, value)
