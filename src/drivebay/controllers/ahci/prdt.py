"""A command's table of physical regions, walked once (AHCI 1.3.1 section 4.2.3.3)."""

from __future__ import annotations

from typing import Final

from drivebay.controllers.ahci.structures import PRDT_AT, PrdEntry, PrdFlags
from drivebay.disk.buffers import cut
from drivebay.platform.memory import GuestMemory, GuestMemoryFault

__all__ = ["PrdTable"]

INTERRUPT, BYTES_Z = int(PrdFlags.I), int(PrdFlags.DBC_z)
PART_REGIONS: Final = 256
"""Regions that are moved at once: between parts, others run."""
ENTRY: Final = PrdEntry.size
Place = tuple[int, int, int, bool]


class PrdTable:
    """The `entries` regions of the command table at `address`, each read when its turn comes.

    `moved` is how many bytes have been, for PRDBC, and `by_dma` whether the drive counts them.
    """

    def __init__(self, memory: GuestMemory, address: int, entries: int) -> None:
        self._memory = memory
        self._table = address + PRDT_AT
        self._entries = entries
        self._next = 0  # the entry to be read next,
        self._address = self._left = 0  # what is left of the one before,
        self._interrupts = False  # and whether it wants to interrupt
        self._fault: GuestMemoryFault | None = None
        self._before: Place = (0, 0, 0, False)
        self.wants_interrupt = False
        """A region with the I bit has been used up by what was gathered."""
        self.moved = 0
        self.by_dma = False

    def gather(self, size: int, unit: int) -> list[memoryview]:
        """Pieces of memory for up to `size` bytes, in whole `unit`s or all of it; none if the table
        has no more room. Raises `GuestMemoryFault` where no piece is left before the fault.
        """
        if self._fault is not None:
            raise self._fault
        self._before = (self._next, self._address, self._left, self._interrupts)
        pieces: list[memoryview] = []
        gathered = 0
        try:
            while gathered < size:
                if not self._left:
                    if self._next == self._entries:
                        break
                    self._fetch()
                take = min(self._left, size - gathered)
                found = self._memory.views(self._address, take)
                pieces += found
                self._address += take
                self._left -= take
                gathered += take
                if not self._left:
                    self.wants_interrupt |= self._interrupts
                if len(pieces) >= PART_REGIONS and gathered % unit == 0:
                    return pieces
        except GuestMemoryFault as fault:
            self._fault = fault
            if gathered < unit:
                raise
        if gathered < size and gathered % unit:
            whole = gathered - gathered % unit
            return cut(pieces, 0, whole) if whole else []
        return pieces

    def _fetch(self) -> None:
        """Read the next entry, once."""
        entry = self._memory.view(self._table + ENTRY * self._next, ENTRY)
        low, high, _, flags = PrdEntry.unpack_from(entry)
        self._next += 1
        self._address = high << 32 | low & ~1
        self._left = (flags & BYTES_Z | 1) + 1
        self._interrupts = bool(flags & INTERRUPT)

    # -- saving ----------------------------------------------------------------------------------

    def save(self, *, moving: bool) -> list[int]:
        """Where it stands; a part that is being moved is one that was not begun."""
        here = (self._next, self._address, self._left, self._interrupts)
        place = self._before if moving else here
        return [self._table - PRDT_AT, self._entries, *place, self.moved, self.by_dma]

    def save_anew(self) -> list[int]:
        """The table as it was before anything was gathered."""
        return [self._table - PRDT_AT, self._entries, 0, 0, 0, False, 0, False]

    @classmethod
    def restore(cls, memory: GuestMemory, state: list[int]) -> PrdTable:
        """The table that `save` gave."""
        address, entries, following, at, left, interrupts, moved, by_dma = state
        table = cls(memory, address, entries)
        table._next, table._address, table._left = following, at, left
        table._interrupts, table.moved, table.by_dma = bool(interrupts), moved, bool(by_dma)
        return table
