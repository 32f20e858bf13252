"""The packed ring, virtio 1.2 section 2.8."""

from __future__ import annotations

import struct

from drivebay.controllers.virtio.registers import DescriptorFlag, EventFlag, PackedDesc
from drivebay.controllers.virtio.ring import (
    INDIRECT,
    NEXT,
    WRITE,
    Chain,
    Queue,
    Row,
    barrier,
    indirect_table,
    place,
)
from drivebay.platform.virtio import QueueSetup, RingError

__all__ = ["PackedQueue"]

AVAIL = int(DescriptorFlag.AVAIL)
USED = int(DescriptorFlag.USED)
BOTH = AVAIL | USED
WRAP = 1 << 15  # the wrap counter beside a position, in event offsets and vring bases

# Places in the 16-bit view of an event suppression structure.
OFFSET_WRAP, FLAGS = 0, 1
DISABLE, DESC = int(EventFlag.DISABLE), int(EventFlag.DESC)

read_descriptor = PackedDesc.layout.unpack_from
write_used = struct.Struct("<IH").pack_into  # len and id, at offset 8 of a descriptor


class PackedQueue(Queue):
    """A packed ring of 1 to 32768 entries. It has no tracker: see the README of this folder."""

    def __init__(self, setup: QueueSetup, *, event_idx: bool) -> None:
        size = setup.size
        if not 0 < size <= 32768:
            raise RingError(f"a packed ring of {size} entries")
        super().__init__(setup, event_idx=event_idx)
        position = WRAP | WRAP << 16 if setup.position is None else setup.position
        self._next, self._next_wrap = position & ~WRAP & 0xFFFF, position >> 15 & 1
        self._used, self._used_wrap = position >> 16 & ~WRAP, position >> 31 & 1
        if self._next >= size or self._used >= size:
            raise RingError(f"position {self._next} or {self._used} in a ring of {size}")
        self._slots = 0  # of the ring, held by chains in flight
        self._taken: dict[int, int] = {}  # ids in flight and their slots
        self._signalled = (self._used, self._used_wrap)
        self._unpublished: list[tuple[int, int]] = []

    def remap(self) -> None:
        """Find the three parts of the ring in guest memory."""
        descriptors, driver, device = self.addresses
        self._ring = place(self.memory, descriptors, 16 * self.size, 16, "descriptor ring")
        self._halves = self._ring.cast("H")
        self._driver = place(self.memory, driver, 4, 4, "driver event suppression").cast("H")
        self._device = place(self.memory, device, 4, 4, "device event suppression").cast("H")

    @property
    def position(self) -> int:
        """Where the next chain will be, and above it where the next used descriptor goes."""
        return self._offset | (self._used | self._used_wrap << 15) << 16

    @property
    def _offset(self) -> int:
        return self._next | self._next_wrap << 15

    def _offer(self) -> int | None:
        """The flags of the descriptor at the next position, if it is an offer (section 2.8.1).

        A ring that is all in flight has none, whatever it says.
        """
        if self._slots >= self.size:
            return None
        flags = self._halves[8 * self._next + 7]
        return flags if flags & BOTH == (AVAIL if self._next_wrap else USED) else None

    def pop(self) -> Chain | None:
        """The next chain the driver made available, or None. Raises `RingError`."""
        head_flags = self._offer()
        if head_flags is None:
            return None
        rows: list[Row] = []
        position, wrap, slots = self._next, self._next_wrap, 0
        while True:
            # The head's flags come first, the rest is valid after them: each is read once.
            address, length, ident, flags = read_descriptor(self._ring, position << 4)
            if not slots:
                flags = head_flags
            position, slots = position + 1, slots + 1
            if position == self.size:
                position, wrap = 0, wrap ^ 1
            if flags & INDIRECT:
                if rows:
                    raise RingError("an indirect table in a chain")
                rows = self._indirect(address, length, flags)
                break
            rows.append((address, length, flags, 0))
            if not flags & NEXT:
                break
            if self._slots + slots >= self.size:
                raise RingError(f"a chain longer than the ring of {self.size}")
        if ident in self._taken:
            raise RingError(f"buffer id {ident} is offered again while in flight")
        self._next, self._next_wrap = position, wrap
        self._slots += slots
        self._taken[ident] = slots
        return ident, rows

    def _indirect(self, address: int, length: int, flags: int) -> list[Row]:
        """The rows of an indirect table: all of it, in order (section 2.8.7)."""
        table = bytes(indirect_table(self.memory, address, length, flags))
        rows = []
        for buffer, size, _, row_flags in PackedDesc.layout.iter_unpack(table):
            if row_flags & INDIRECT:
                raise RingError("an indirect table inside an indirect table")
            rows.append((buffer, size, row_flags & WRITE, 0))
        return rows

    def push(self, head: int, written: int) -> None:
        """Give a chain back, with `written` bytes written to its writable buffers in order."""
        write_used(self._ring, 16 * self._used + 8, written, head)
        flags = (BOTH if self._used_wrap else 0) | (WRITE if written else 0)
        self._unpublished.append((8 * self._used + 7, flags))
        slots = self._taken.pop(head)
        self._used += slots
        if self._used >= self.size:
            self._used -= self.size
            self._used_wrap ^= 1
        self._slots -= slots

    def publish(self) -> None:
        """Make what was pushed visible, and interrupt the driver if it wants that."""
        if not self._unpublished:
            return
        # The first is stored last: a driver that polls it sees the whole batch or none of it.
        for half, flags in reversed(self._unpublished):
            self._halves[half] = flags
        self._unpublished.clear()
        barrier()
        wanted = self._driver[FLAGS] & 3  # the other bits are reserved
        if wanted == DESC and self.event_idx:
            signal = self._passed(self._driver[OFFSET_WRAP])
        else:
            signal = wanted != DISABLE
        self._signalled = (self._used, self._used_wrap)
        if signal:
            self.signal()

    def _passed(self, event: int) -> bool:
        """Whether the batch just published went over the descriptor the driver waits for.

        Positions are counted from the lap in which the batch began (section 2.8.10).
        """
        start, start_wrap = self._signalled
        end = self._used + (self.size if self._used_wrap != start_wrap else 0)
        offset = (event & ~WRAP) + (self.size if event >> 15 != start_wrap else 0)
        return start <= offset < end

    def arm(self) -> bool:
        """Ask for kicks. False if chains came meanwhile: pop again."""
        if self.event_idx:
            self._device[OFFSET_WRAP] = self._offset
            barrier()
            self._device[FLAGS] = DESC
        else:
            self._device[FLAGS] = int(EventFlag.ENABLE)
        barrier()
        return self._offer() is None

    def disarm(self) -> None:
        """Ask for no kicks."""
        self._device[FLAGS] = DISABLE
