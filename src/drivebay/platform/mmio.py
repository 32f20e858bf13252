"""Memory-mapped registers: what a device answers to, and where in the address space it sits."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple, Protocol

__all__ = ["MmioRegion", "MmioSpace"]


class MmioRegion(Protocol):
    """A block of registers, `size` bytes long."""

    @property
    def size(self) -> int:
        """Length of the block in bytes."""

    def mmio_read(self, offset: int, width: int) -> int:
        """The value of `width` bytes (1, 2, 4 or 8) at `offset`."""

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Store `value` in `width` bytes at `offset`."""


class _Mapping(NamedTuple):
    base: int
    region: MmioRegion


class MmioSpace:
    """An address space of register blocks. What no block claims reads all ones and drops writes."""

    def __init__(self) -> None:
        self._mappings: list[_Mapping] = []
        self._bases: list[int] = []

    def map(self, base: int, region: MmioRegion) -> None:
        """Put `region` at `base`. Raises `ValueError` if something is there already."""
        for other in self._mappings:
            if base < other.base + other.region.size and other.base < base + region.size:
                raise ValueError(f"MMIO {base:#x}+{region.size:#x} overlaps {other.base:#x}")
        self._mappings.append(_Mapping(base, region))
        self._mappings.sort(key=lambda mapping: mapping.base)
        self._bases = [mapping.base for mapping in self._mappings]

    def read(self, address: int, width: int) -> int:
        """Read `width` bytes at `address`."""
        found = self._find(address, width)
        if found is None:
            return (1 << 8 * width) - 1
        return found.region.mmio_read(address - found.base, width)

    def write(self, address: int, width: int, value: int) -> None:
        """Write `width` bytes at `address`."""
        found = self._find(address, width)
        if found is not None:
            found.region.mmio_write(address - found.base, width, value)

    def _find(self, address: int, width: int) -> _Mapping | None:
        index = bisect_right(self._bases, address) - 1
        if index < 0:
            return None
        mapping = self._mappings[index]
        inside = address + width <= mapping.base + mapping.region.size
        return mapping if inside else None
