"""Guest memory that changes while the device looks at it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from drivebay.platform.memory import GuestMemory, Region

__all__ = ["FlippingMemory", "Watch"]


class Watch:
    """A range of a `FlippingMemory` that never holds still, and how often it was looked at."""

    def __init__(self, address: int, view: memoryview, values: Iterator[bytes]) -> None:
        self.address, self.length = address, len(view)
        self.views = 0
        """Views the device has asked for that touch this range."""
        self._view, self._values = view, values

    def flip(self) -> None:
        """Store the next value."""
        self._view[:] = next(self._values)

    def touches(self, address: int, length: int) -> bool:
        """Whether ``address+length`` has a byte of this range."""
        return address < self.address + self.length and self.address < address + length


class FlippingMemory(GuestMemory):
    """A guest that changes its memory between any two looks of the device.

    Each watched range takes the next of its values whenever the device asks for any view of memory,
    so that a device that reads a structure twice sees two structures::

        memory = FlippingMemory.of_size(1 << 20)
        header = memory.watch(0x1000, [read_sector_1, read_sector_2])
        ...                              # the guest makes a request of the header at 0x1000
        assert header.views == 1         # looked at once; and what came back is sector 1 or 2

    The device's own short cut, `window`, stays shut: every look comes through here. `armed` says
    whether the ranges change now; a test that prepares its requests through this memory clears it.
    """

    armed = True

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self.watches: list[Watch] = []
        super().__init__(regions)

    def watch(self, address: int, values: Iterable[bytes] | None = None, length: int = 0) -> Watch:
        """Change the bytes at `address` at each look, to each of `values` in turn, for ever.

        Without values, `length` bytes and their complement take turns. Raises `ValueError` if the
        values differ in length, and `GuestMemoryFault` if there is no RAM.
        """
        if values is None:
            now = bytes(super().view(address, length))
            values = [bytes(byte ^ 0xFF for byte in now), now]
        turns = list(values)
        if len({len(value) for value in turns}) != 1:
            raise ValueError("a range needs values of one length")
        view = super().view(address, len(turns[0]))
        self._shut()
        watch = Watch(address, view, itertools.cycle(turns))
        self.watches.append(watch)
        return watch

    def view(self, address: int, length: int) -> memoryview:
        """As it says, after the guest has changed what is watched."""
        self._looked(address, length)
        view = super().view(address, length)
        self._shut()
        return view

    def views(self, address: int, length: int) -> list[memoryview]:
        """As it says, after the guest has changed what is watched."""
        self._looked(address, length)
        views = super().views(address, length)
        self._shut()
        return views

    def _looked(self, address: int, length: int) -> None:
        if self.armed:
            for watch in self.watches:
                watch.views += watch.touches(address, length)
                watch.flip()

    def _shut(self) -> None:
        self.window = (0, 0, memoryview(b""))
