"""Guest memory of a function that is recorded or replayed; see `standins`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from drivebay.hosts.vfio_user.memory import Carrier, ClientMemory, Slot
from drivebay.lab.replay.standins import Tape
from drivebay.platform.memory import GuestMemoryFault

__all__ = ["TapedMemory"]

WHOLE: Final = Slot(0, 1 << 64, True, None)
MOST_LOADS: Final = 100
"""A guest that never ceases to store gets what it deserves."""


class _Lasting(NamedTuple):
    """A copy that a function keeps, and what of it the guest's memory has."""

    address: int
    working: bytearray
    there: bytearray

    def changes(self, now: bytearray) -> Iterator[tuple[int, bytes]]:
        """Where `now` is something else than there: address and bytes. They are cut where a CPU
        stores eight bytes at once, and the highest comes first: the flags or the index of a ring
        come with or behind what they tell of (virtio 1.2 sections 2.7 and 2.8).
        """
        if now == self.there:
            return
        odd = self.address % 8
        for end in range((len(now) + odd + 7) // 8 * 8 - odd, 0, -8):
            piece = slice(max(end - 8, 0), end)
            if now[piece] != self.there[piece]:
                yield self.address + piece.start, bytes(now[piece])

    def take(self, address: int, data: bytes) -> None:
        """The guest has changed this, if it is all in here: where a ring has moved, there may still
        be somebody with a view of what was half of it.
        """
        at = address - self.address
        if 0 <= at <= len(self.working) - len(data):
            self.working[at : at + len(data)] = self.there[at : at + len(data)] = data


class TapedMemory(ClientMemory):
    """Guest memory of which a function has only copies, so that the guest cannot change what was
    written down.
    """

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._below: Carrier | None = None
        self._copying = self._sent = False
        self._lasting: list[_Lasting] = []
        super().__init__()
        self._slots_changed()

    @property
    def carrier(self) -> Carrier | None:
        """Moves the copies; set, it is who moves what a client does not share."""
        return self

    @carrier.setter
    def carrier(self, carrier: Carrier | None) -> None:
        self._below = carrier

    def _slots_changed(self) -> None:
        self._lowest_remote = 0
        if self._watchers:
            self._tape.laid_out(self.relaid)

    def relaid(self) -> None:
        """Memory was laid out anew: who keeps copies shall look for it again."""
        self.replace(())

    def _remote(self, address: int, length: int) -> Slot | None:
        return WHOLE

    def _copy(self, address: int, length: int) -> memoryview:
        self._copying = True
        try:
            return super()._copy(address, length)
        finally:
            self._copying = False

    def lasting_view(self, address: int, length: int) -> memoryview:
        """A copy that is the guest's whenever `fence` has been called."""
        copy = self._fetched(address, length, self.fetch)
        self._lasting = [each for each in self._lasting if _is_viewed(each.working)]
        self._lasting.append(_Lasting(address, copy, bytearray(copy)))
        return memoryview(copy)

    def fence(self) -> None:
        """Store what the function has stored, first its data; then load what the guest has."""
        super().write_back()
        for copy in self._lasting:
            for address, data in copy.changes(copy.working):
                self.store(address, data)
            copy.there[:] = copy.working
        for address, data in self._tape.answer("changed", find=self._changed):
            for copy in self._lasting:
                copy.take(address, data)

    def _changed(self) -> list[tuple[int, bytes]]:
        """What loads in an order of their own find twice has been there in between."""
        now, before = self._loaded(), None
        for _ in range(MOST_LOADS):
            if now == before:
                break
            now, before = self._loaded(), now
        pairs = zip(self._lasting, now, strict=True)
        return [change for copy, data in pairs for change in copy.changes(data)]

    def _loaded(self) -> list[bytearray]:
        return [self._load(copy) for copy in self._lasting]

    def _load(self, copy: _Lasting) -> bytearray:
        try:
            return self._fetched(copy.address, len(copy.there), self._fetch)
        except GuestMemoryFault:  # it is gone
            return copy.there

    def write_back(self) -> bool:
        """Send what the function has changed in its copies; whether the client must answer."""
        self._sent = False
        if self._copying or not self.has_copies:
            super().write_back()
        else:
            self._tape.settle(super().write_back)
        return self._sent

    def fetch(self, address: int, length: int) -> bytes | None:
        """What is there; None if that is no RAM."""
        found: bytes | None = self._tape.answer(
            "memory", address, length, find=lambda: self._fetch(address, length)
        )
        return found

    def _fetch(self, address: int, length: int) -> bytes | None:
        slot = self._slot(address, length)
        if slot is not None and slot.view is not None:
            return bytes(slot.view[address - slot.address :][:length])
        return None if slot is None or self._below is None else self._below.fetch(address, length)

    def store(self, address: int, data: bytes) -> None:
        """Write `data` there."""
        self._tape.told("store", address, data)
        slot = self._slot(address, len(data))
        if slot is not None and slot.view is not None:
            if slot.writable:
                slot.view[address - slot.address :][: len(data)] = data
        elif slot is not None and self._below is not None:
            self._below.store(address, data)
            self._sent = True


def _is_viewed(data: bytearray) -> bool:
    try:
        data.append(0)
    except BufferError:
        return True
    return False
