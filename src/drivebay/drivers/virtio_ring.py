"""The driver's side of virtio rings, split and packed (virtio 1.2 sections 2.7 and 2.8)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from drivebay.drivers.arena import Arena
from drivebay.platform.memory import GuestMemory

__all__ = ["Buffer", "DriverRing", "PackedDriverRing", "SplitDriverRing"]

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15

pack_split: Final = struct.Struct("<QIHH").pack_into
pack_packed: Final = struct.Struct("<QIH").pack_into


class Buffer(NamedTuple):
    """Memory of one descriptor; `writable` by the device or only readable."""

    address: int
    length: int
    writable: bool


class DriverRing(Protocol):
    """What a driver does with a ring of either kind."""

    size: int
    addresses: tuple[int, int, int]
    """Descriptor, driver and device area."""

    def add(self, buffers: Sequence[Buffer], *, indirect: int | None = None) -> int:
        """Offer a chain; its token comes back from `take`. Visible to the device at once.

        With `indirect` the descriptors go to a table at that address.
        """

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was added since the last call."""

    def take(self) -> Iterator[tuple[int, int]]:
        """The chains the device has given back: token and bytes written."""

    def want_interrupt(self, wanted: bool = True) -> None:
        """Ask for an interrupt with the next used chain, or for none."""


def write_table(memory: GuestMemory, address: int, buffers: Sequence[Buffer]) -> None:
    """A split-ring table of `buffers` at `address`, each linked to the next."""
    view = memory.view(address, 16 * len(buffers))
    for n, (at, length, writable) in enumerate(buffers):
        flags = (WRITE if writable else 0) | (NEXT if n + 1 < len(buffers) else 0)
        pack_split(view, 16 * n, at, length, flags, n + 1 if flags & NEXT else 0)


class SplitDriverRing:
    """A split ring of `size` entries, laid out in `arena`."""

    def __init__(self, arena: Arena, size: int, *, event_idx: bool = False) -> None:
        self.size, self.memory, self._event_idx = size, arena.memory, event_idx
        descriptors = arena.take(16 * size, 16)
        driver = arena.take(6 + 2 * size, 2)
        device = arena.take(6 + 8 * size, 4)
        self.addresses = (descriptors, driver, device)
        self.table = arena.memory.view(descriptors, 16 * size)
        self.avail = arena.memory.view(driver, 6 + 2 * size).cast("H")
        used = arena.memory.view(device, 6 + 8 * size)
        self.used = used.cast("H")
        self._elements = used[4 : 4 + 8 * size].cast("I")
        self._free = list(reversed(range(size)))
        self._chains: dict[int, list[int]] = {}
        self._added = self._kicked = self._taken = 0

    @property
    def free(self) -> int:
        """Descriptors not in use."""
        return len(self._free)

    def add(self, buffers: Sequence[Buffer], *, indirect: int | None = None) -> int:
        """Offer a chain. Raises `IndexError` if there are too few free descriptors."""
        if indirect is not None:
            write_table(self.memory, indirect, buffers)
            places = [self._free.pop()]
            pack_split(self.table, 16 * places[0], indirect, 16 * len(buffers), INDIRECT, 0)
        else:
            if len(self._free) < len(buffers):
                raise IndexError("no free descriptors")
            places = [self._free.pop() for _ in buffers]
            last = len(buffers) - 1
            for n, (at, length, writable) in enumerate(buffers):
                flags = (WRITE if writable else 0) | (NEXT if n < last else 0)
                following = places[n + 1] if n < last else 0
                pack_split(self.table, 16 * places[n], at, length, flags, following)
        self._chains[places[0]] = places
        self.offer(places[0])
        return places[0]

    def offer(self, head: int) -> None:
        """Put `head` into the available ring, whatever it is: tests break rules here."""
        self.avail[2 + self._added % self.size] = head
        self._added = (self._added + 1) & 0xFFFF
        self.avail[1] = self._added

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was added since the last call."""
        old, self._kicked = self._kicked, self._added
        if self._event_idx:
            event = self.used[2 + 4 * self.size]
            return (self._added - event - 1) & 0xFFFF < (self._added - old) & 0xFFFF
        return not self.used[0] & 1

    def take(self) -> Iterator[tuple[int, int]]:
        """The chains the device has given back: token and bytes written."""
        while self._taken != self.used[1]:
            element = 2 * (self._taken % self.size)
            head, written = self._elements[element], self._elements[element + 1]
            self._taken = (self._taken + 1) & 0xFFFF
            self._free.extend(reversed(self._chains.pop(head, ())))
            yield head, written

    def want_interrupt(self, wanted: bool = True) -> None:
        """Ask for an interrupt with the next used chain, or for none."""
        self.avail[0] = 0 if wanted else 1
        self.avail[2 + self.size] = self._taken if wanted else (self._taken - 1) & 0xFFFF


class PackedDriverRing:
    """A packed ring of `size` entries, laid out in `arena`."""

    def __init__(self, arena: Arena, size: int, *, event_idx: bool = False) -> None:
        self.size, self.memory, self._event_idx = size, arena.memory, event_idx
        descriptors = arena.take(16 * size, 16)
        driver, device = arena.take(4, 4), arena.take(4, 4)
        self.addresses = (descriptors, driver, device)
        self.ring = arena.memory.view(descriptors, 16 * size)
        self.halves = self.ring.cast("H")
        self.driver = arena.memory.view(driver, 4).cast("H")
        self.device = arena.memory.view(device, 4).cast("H")
        self._next, self._wrap = 0, 1
        self._taken, self._taken_wrap = 0, 1
        self._kicked = 0  # descriptors added since the last look
        self._ids = list(reversed(range(size)))
        self._slots: dict[int, int] = {}
        self.free = size

    def add(self, buffers: Sequence[Buffer], *, indirect: int | None = None) -> int:
        """Offer a chain. Raises `IndexError` if there are too few free descriptors."""
        rows = [(at, length, WRITE if writable else 0) for at, length, writable in buffers]
        if indirect is not None:
            table = self.memory.view(indirect, 16 * len(rows))
            for n, (at, length, flags) in enumerate(rows):
                pack_packed(table, 16 * n, at, length, 0)
                table[16 * n + 14 : 16 * n + 16] = flags.to_bytes(2, "little")
            rows = [(indirect, 16 * len(rows), INDIRECT)]
        if self.free < len(rows):
            raise IndexError("no free descriptors")
        ident = self._ids.pop()
        stores = []
        for n, (at, length, flags) in enumerate(rows):
            pack_packed(self.ring, 16 * self._next, at, length, ident)
            mark = AVAIL if self._wrap else USED
            more = NEXT if n + 1 < len(rows) else 0
            stores.append((8 * self._next + 7, flags | mark | more))
            self._next += 1
            if self._next == self.size:
                self._next, self._wrap = 0, self._wrap ^ 1
        for half, flags in reversed(stores):  # the head last: it makes the chain available
            self.halves[half] = flags
        self._slots[ident] = len(rows)
        self.free -= len(rows)
        self._kicked += len(rows)
        return ident

    def kick_wanted(self) -> bool:
        """Whether the device wants to be told of what was added since the last call."""
        added, self._kicked = self._kicked, 0
        flags = self.device[1]
        if flags == 2 and self._event_idx:
            event = self.device[0]
            offset, wrap = event & 0x7FFF, event >> 15
            end = self._next + (0 if wrap == self._wrap else self.size)
            return end - added <= offset < end
        return flags != 1

    def take(self) -> Iterator[tuple[int, int]]:
        """The chains the device has given back: token and bytes written."""
        while True:
            flags = self.halves[8 * self._taken + 7]
            mark = flags & (AVAIL | USED)
            if mark != ((AVAIL | USED) if self._taken_wrap else 0):
                return
            _, written, ident, _ = struct.unpack_from("<QIHH", self.ring, 16 * self._taken)
            slots = self._slots.pop(ident)
            self._taken += slots
            if self._taken >= self.size:
                self._taken, self._taken_wrap = self._taken - self.size, self._taken_wrap ^ 1
            self.free += slots
            self._ids.append(ident)
            yield ident, written

    def want_interrupt(self, wanted: bool = True) -> None:
        """Ask for an interrupt with the next used chain, or for none."""
        if wanted and self._event_idx:
            self.driver[0] = self._taken | self._taken_wrap << 15
            self.driver[1] = 2
        else:
            self.driver[1] = 0 if wanted else 1
