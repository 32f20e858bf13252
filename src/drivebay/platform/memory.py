"""Guest memory: regions of bytes at guest physical addresses, with holes between them."""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import NamedTuple, Self

__all__ = ["GuestMemory", "GuestMemoryFault", "Region", "barrier"]

_NOTHING = (0, 0, memoryview(b""))
_fence = threading.Lock()


def barrier() -> None:
    """Order what was stored before against what is loaded after (x86 reorders just that)."""
    _fence.acquire()
    _fence.release()


class GuestMemoryFault(Exception):
    """A guest named memory that is not RAM, or not all of it in one region."""

    def __init__(self, address: int, length: int) -> None:
        super().__init__(f"no RAM at {address:#x}+{length:#x}")
        self.address, self.length = address, length


class Region(NamedTuple):
    """RAM at guest physical `address`; `view` is a memoryview of its bytes."""

    address: int
    view: memoryview


class GuestMemory:
    """The RAM of one guest.

    Views are slices of the real thing: nothing is copied, and a guest may change it at any time, so
    a structure is unpacked from its view once and never read twice. Register windows are not RAM:
    DMA to a device's own registers is a fault like any other hole.
    """

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self.window = _NOTHING
        """Start, size and bytes of the region hit last, for loops that look there themselves: most
        guests have one region that matters."""
        self._regions: list[Region] = []
        self._starts: list[int] = []
        self._watchers: list[Callable[[], object]] = []
        self.replace(regions)

    @classmethod
    def of_size(cls, size: int, address: int = 0) -> Self:
        """Fresh zeroed RAM of `size` bytes at `address`."""
        return cls([Region(address, memoryview(mmap.mmap(-1, size)))])

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions, by address."""
        return tuple(self._regions)

    def replace(self, regions: Iterable[Region]) -> None:
        """Make these the guest's whole memory. Raises `ValueError` if they are empty or overlap."""
        ordered = sorted(regions, key=lambda region: region.address)
        end = 0
        for region in ordered:
            if not len(region.view) or region.address < end:
                raise ValueError(f"memory region at {region.address:#x} is empty or overlaps")
            end = region.address + len(region.view)
            if end > 1 << 64:
                raise ValueError(f"memory region at {region.address:#x} ends past 2^64")
        self._regions = ordered
        self._starts = [region.address for region in ordered]
        self.window = _NOTHING
        for changed in tuple(self._watchers):
            changed()

    def on_change(self, changed: Callable[[], object]) -> Callable[[], None]:
        """Call `changed` when memory was laid out anew: for those who keep views. Returns what ends
        it.
        """
        self._watchers.append(changed)
        return lambda: self._watchers.remove(changed)

    def view(self, address: int, length: int) -> memoryview:
        """`length` bytes at `address`, in one region. Raises `GuestMemoryFault`."""
        start, size, ram = self.window
        offset = address - start
        if offset < 0 or offset + length > size:
            region = self._find(address, length)
            offset, ram = address - region.address, region.view
        return ram[offset : offset + length]

    def lasting_view(self, address: int, length: int) -> memoryview:
        """The same for those who keep it, and look again what the guest has written."""
        return self.view(address, length)

    fence: Callable[[], None] = staticmethod(barrier)
    """A `barrier` between what is stored to a `lasting_view` and what is loaded from one."""

    def views(self, address: int, length: int) -> list[memoryview]:
        """The same bytes in as many pieces as there are adjoining regions."""
        start, size, ram = self.window
        offset = address - start
        if length and 0 <= offset <= size - length:
            return [ram[offset : offset + length]]
        pieces = []
        while length:
            region = self._find(address, 1)
            offset = address - region.address
            piece = region.view[offset : offset + length]
            pieces.append(piece)
            address += len(piece)
            length -= len(piece)
        return pieces

    def _find(self, address: int, length: int) -> Region:
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            region = self._regions[index]
            if address + length <= region.address + len(region.view):
                self.window = (region.address, len(region.view), region.view)
                return region
        raise GuestMemoryFault(address, length)
