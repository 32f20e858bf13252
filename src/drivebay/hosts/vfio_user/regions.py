"""The regions of a PCI function: configuration space and BARs, by number."""

from __future__ import annotations

import errno
from typing import Final

from drivebay.hosts.vfio_user.memory import Refused
from drivebay.hosts.vfio_user.messages import (
    NUM_REGIONS,
    SPARSE_MMAP,
    Region,
    RegionFlags,
    RegionInfo,
    SparseArea,
    SparseMmap,
)
from drivebay.platform.onlooker import (
    Onlooker,
    ReadRegister,
    WriteRegister,
    watched_read,
    watched_write,
)
from drivebay.platform.pci import Bar, PciFunction
from drivebay.platform.ports import Hold, PortRegion
from drivebay.platform.shared_region import SharedRegion

__all__ = ["Regions"]

ACCESS: Final = RegionFlags.READ | RegionFlags.WRITE


class _Region:
    """What answers to reads and writes of up to `widest` bytes."""

    def __init__(self, size: int, widest: int, read: ReadRegister, write: WriteRegister) -> None:
        self.size, self.widest = size, widest
        self.read, self.write = self._read, self._write = read, write
        self.shared: SharedRegion | None = None

    def watch(self, place: str, onlooker: Onlooker | None) -> None:
        self.read, self.write = self._read, self._write
        if onlooker is not None:
            self.read = watched_read(self._read, place, onlooker)
            self.write = watched_write(self._write, place, onlooker)


class Regions:
    """The regions of `function`. All methods raise `Refused` for one that there is not."""

    def __init__(self, function: PciFunction) -> None:
        self._regions: list[_Region | None] = [None] * NUM_REGIONS
        for index, bar in function.bars.items():
            self._regions[index] = _bar(bar)
        self._regions[Region.CONFIG] = _Region(
            len(function.config), 4, function.config_read, function.config_write
        )

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at accesses; not at those of what a client maps."""
        for index, region in enumerate(self._regions):
            if region is not None:
                region.watch("config" if index == Region.CONFIG else f"BAR{index}", onlooker)

    def info(self, index: int, room: int) -> tuple[bytes, int | None]:
        """DEVICE_GET_REGION_INFO for a client with `room` bytes for it, and what it may map."""
        if index >= NUM_REGIONS:
            raise Refused(errno.EINVAL, f"region {index} of {NUM_REGIONS}")
        region = self._regions[index]
        if region is None:
            return RegionInfo(RegionInfo.size, 0, index, 0, 0, 0).pack(), None
        if region.shared is None:
            info = RegionInfo(RegionInfo.size, ACCESS, index, 0, region.size, 0)
            return info.pack(), None
        areas = region.shared.areas
        sparse = SparseMmap(SPARSE_MMAP, 1, 0, len(areas), 0).pack()
        sparse += b"".join(SparseArea(*area).pack() for area in areas)
        if areas == ((0, region.size),):
            sparse = b""
        needed = RegionInfo.size + len(sparse)
        flags = ACCESS | RegionFlags.MMAP | (RegionFlags.CAPS if sparse else 0)
        fits = needed <= room
        start = RegionInfo.size if sparse and fits else 0
        info = RegionInfo(needed, flags, index, start, region.size, 0)
        # A client that has no room asks again, and gets the descriptor then.
        return info.pack() + (sparse if fits else b""), region.shared.fd if fits else None

    def read(self, index: int, offset: int, count: int) -> bytes:
        """REGION_READ."""
        region = self._find(index, offset, count)
        if count <= region.widest and not count & (count - 1) and count:
            return region.read(offset, count).to_bytes(count, "little")
        data = bytearray()
        for at, width in _pieces(offset, count, region.widest):
            data += region.read(at, width).to_bytes(width, "little")
        return bytes(data)

    def write(self, index: int, offset: int, data: bytes) -> Hold | None:
        """REGION_WRITE. A `Hold` says that it is not complete yet."""
        count = len(data)
        region = self._find(index, offset, count)
        if count <= region.widest and not count & (count - 1) and count:
            return region.write(offset, count, int.from_bytes(data, "little"))
        held = None
        for at, width in _pieces(offset, count, region.widest):
            start = at - offset
            value = int.from_bytes(data[start : start + width], "little")
            held = region.write(at, width, value) or held
        return held

    def check(self, index: int, offset: int, count: int) -> None:
        """Whether there is such a place."""
        self._find(index, offset, count)

    def _find(self, index: int, offset: int, count: int) -> _Region:
        region = self._regions[index] if index < NUM_REGIONS else None
        if region is None or offset + count > region.size:
            raise Refused(errno.EINVAL, f"{count} bytes at {offset:#x} of region {index}")
        return region


def _bar(bar: Bar) -> _Region:
    region = bar.region
    if region is None:  # nobody answers there
        return _Region(bar.size, 8, lambda _offset, width: (1 << 8 * width) - 1, _drop)
    if isinstance(region, PortRegion):
        return _Region(region.size, 4, region.port_read, region.port_write)
    found = _Region(region.size, 8, region.mmio_read, region.mmio_write)
    if isinstance(region, SharedRegion):
        found.shared = region
    return found


def _drop(_offset: int, _width: int, _value: int, /) -> None:
    return None


def _pieces(offset: int, count: int, widest: int) -> list[tuple[int, int]]:
    """Aligned accesses of 1, 2, 4 (and 8) bytes that make up a larger or odd one."""
    pieces = []
    end = offset + count
    while offset < end:
        width = widest
        while offset % width or offset + width > end:
            width //= 2
        pieces.append((offset, width))
        offset += width
    return pieces
