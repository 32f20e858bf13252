"""The client's memory as a device sees it: files that it shares, and what is had by messages.

What is not shared is fetched when a device looks at it, into a copy, and what has changed in the
copy goes back before anybody is told that it has. That works, and is slow.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from drivebay.hosts.peer import PeerError, map_file
from drivebay.hosts.vfio_user.messages import MAX_DATA, MAX_DMA_MAPS, DmaFlags, DmaMap
from drivebay.platform.memory import GuestMemory, GuestMemoryFault, Region

__all__ = ["Carrier", "ClientMemory", "Refused", "Slot"]

MAX_READ_ONLY: Final = 16 << 20
"""Bytes of a read-only region that is mapped: ROMs are smaller."""
MAX_COPY: Final = 1 << 20
"""Bytes of a copy: a larger view is a fault, larger views come in pieces."""
LARGE: Final = 1 << 20
"""A region of so many bytes is the guest's RAM, and should be shared."""
LOOKED_AT: Final = 16 << 20
"""Bytes of a region that are looked at, up to the first that is not 0: a BIOS has left something at
the beginning of one, OVMF at 8 MiB. No more, as what was never used comes to be by looking.
"""
NEVER: Final = 1 << 64


class Refused(Exception):
    """A command that cannot be done; the client is told the errno, and the connection goes on."""

    def __init__(self, error: int, why: str) -> None:
        super().__init__(why)
        self.error = error


Fetch = Callable[[int, int], bytes | None]
"""Gives what is at an address, so many bytes; None if that is no RAM."""


class Carrier(Protocol):
    """Moves memory that is not shared."""

    def fetch(self, address: int, length: int) -> bytes | None:
        """DMA_READ, and wait for it; None if the client does not give it."""

    def store(self, address: int, data: bytes) -> None:
        """DMA_WRITE, not waiting."""


class Slot(NamedTuple):
    """A region: of a file, or without one (`view` is None)."""

    address: int
    length: int
    writable: bool
    view: memoryview | None

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.length


class _Copy(NamedTuple):
    """Bytes that a device has in its hands, and what they were when we last looked."""

    address: int
    working: bytearray
    before: bytearray
    writable: bool


class ClientMemory(GuestMemory):
    """Memory of whichever client is connected; the device has it from the beginning.

    `carrier` is the session's while there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.carrier: Carrier | None = None
        self.piece = MAX_DATA
        """Bytes that the client moves in one message, at most."""
        self._slots: dict[int, Slot] = {}
        self._lowest_remote = NEVER
        self._copies: list[_Copy] = []

    @property
    def shared(self) -> bool:
        """Whether all RAM of the client's is in files."""
        return not any(
            slot.view is None and slot.writable and slot.length >= LARGE
            for slot in self._slots.values()
        )

    @property
    def looks_private(self) -> bool:
        """Whether files hold nothing but zeroes: QEMU hands out those of memory that it has mapped
        privately, too, and what a guest writes never gets there.
        """
        files = [slot.view for slot in self._slots.values() if slot.view and slot.writable]
        return bool(files) and not any(
            bytes(view[at : at + MAX_DATA]).strip(b"\0")
            for view in files
            for at in range(0, min(len(view), LOOKED_AT), MAX_DATA)
        )

    @property
    def by_messages(self) -> bool:
        """Whether some of it is not in files."""
        return self._lowest_remote != NEVER

    # -- DMA_MAP and DMA_UNMAP -------------------------------------------------------------------

    def map(self, region: DmaMap, fd: int | None) -> None:
        """DMA_MAP. Raises `Refused`, or `PeerError`; the descriptor stays the caller's."""
        end = region.address + region.size_
        if not region.size_ or end > 1 << 64:
            raise PeerError(f"DMA_MAP of {region.size_} bytes at {region.address:#x}")
        for slot in self._slots.values():
            if slot.address < end and region.address < slot.end:
                raise Refused(errno.EEXIST, f"DMA_MAP at {region.address:#x} overlaps another")
        if len(self._slots) >= MAX_DMA_MAPS:
            raise Refused(errno.ENOSPC, f"more than {MAX_DMA_MAPS} regions")
        writable = bool(region.flags & DmaFlags.WRITE)
        view = None
        if fd is not None and (writable or region.size_ <= MAX_READ_ONLY):
            # What is written to a ROM must not reach it, nor fail: it goes to pages of our own.
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_COPY
            view = map_file(fd, region.offset, region.size_, access)
        self._slots[region.address] = Slot(region.address, region.size_, writable, view)
        self._slots_changed()

    def unmap(self, address: int, length: int) -> Callable[[], bool]:
        """DMA_UNMAP. Returns what tells whether nothing touches the region any more.

        Raises `Refused` if there is no such region.
        """
        slot = self._slots.get(address)
        if slot is None or slot.length != length:
            raise Refused(
                errno.ENOENT, f"DMA_UNMAP of what is not mapped, {address:#x}+{length:#x}"
            )
        del self._slots[address]
        self._slots_changed()
        return _closer(slot.view)

    def forget(self) -> None:
        """All of it is gone."""
        self._slots.clear()
        self._copies.clear()
        self._slots_changed()

    def unmap_all(self) -> list[Callable[[], bool]]:
        """DMA_UNMAP of everything; the same for each region."""
        views = [slot.view for slot in self._slots.values()]
        self._slots.clear()
        self._slots_changed()
        return [_closer(view) for view in views]

    def _slots_changed(self) -> None:
        slots = self._slots.values()
        self.replace(Region(slot.address, slot.view) for slot in slots if slot.view is not None)
        remote = [slot.address for slot in slots if slot.view is None]
        self._lowest_remote = min(remote, default=NEVER)

    # -- what a device asks ----------------------------------------------------------------------

    def view(self, address: int, length: int) -> memoryview:
        """`length` bytes at `address`, in one region. Raises `GuestMemoryFault`."""
        try:
            return super().view(address, length)
        except GuestMemoryFault:
            if address < self._lowest_remote:
                raise
        return self._copy(address, length)

    def lasting_view(self, address: int, length: int) -> memoryview:
        """The same without a copy: what is not shared is a fault."""
        return super().view(address, length)

    def views(self, address: int, length: int) -> list[memoryview]:
        """The same bytes in as many pieces as it takes."""
        try:
            return super().views(address, length)
        except GuestMemoryFault:
            if address < self._lowest_remote:
                raise
        ends = range(address, address + length, MAX_COPY)
        return [self._copy(at, min(MAX_COPY, address + length - at)) for at in ends]

    # -- copies ----------------------------------------------------------------------------------

    def _copy(self, address: int, length: int) -> memoryview:
        """Fetch what is not shared."""
        slot = self._remote(address, length)
        if slot is None or self.carrier is None or length > MAX_COPY:
            raise GuestMemoryFault(address, length)
        self.write_back()  # or we would fetch what is older than our own
        working = self._fetched(address, length, self.carrier.fetch)
        self._copies.append(_Copy(address, working, bytearray(working), slot.writable))
        return memoryview(working)

    def _fetched(self, address: int, length: int, fetch: Fetch) -> bytearray:
        fetched = bytearray()
        for at in range(address, address + length, self.piece):
            piece = fetch(at, min(self.piece, address + length - at))
            if piece is None:
                raise GuestMemoryFault(address, length)
            fetched += piece
        return fetched

    def _remote(self, address: int, length: int) -> Slot | None:
        slot = self._slot(address, length)
        return slot if slot is not None and slot.view is None else None

    def _slot(self, address: int, length: int) -> Slot | None:
        for slot in self._slots.values():
            if slot.address <= address and address + length <= slot.end:
                return slot
        return None

    def write_back(self) -> bool:
        """Send what devices have changed in their copies; whether there was anything."""
        if not self._copies:
            return False
        sent = False
        held = []
        for copy in self._copies:
            if copy.writable and copy.working != copy.before:
                self._send_changes(copy)
                sent = True
            try:
                copy.working.append(0)  # this fails as long as somebody has a view of it
            except BufferError:
                held.append(copy)
        self._copies = held
        return sent

    def _send_changes(self, copy: _Copy) -> None:
        for at in range(0, len(copy.working), self.piece):
            now, before = copy.working[at : at + self.piece], copy.before[at : at + self.piece]
            if now != before and self.carrier is not None:
                first = next(n for n in range(len(now)) if now[n] != before[n])
                last = next(n for n in reversed(range(len(now))) if now[n] != before[n])
                self.carrier.store(copy.address + at + first, bytes(now[first : last + 1]))
        copy.before[:] = copy.working

    @property
    def has_copies(self) -> bool:
        """Whether a device may have changed something that has not been sent."""
        return bool(self._copies)


def _closer(view: memoryview | None) -> Callable[[], bool]:
    """Unmaps a region; False as long as a device, or a system call under way, has a view of it."""
    if view is None:
        return lambda: True
    mapping = view.obj
    assert isinstance(mapping, mmap.mmap)
    view.release()

    def close() -> bool:
        try:
            mapping.close()
        except BufferError:
            return False
        return True

    return close
