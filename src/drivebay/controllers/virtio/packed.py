"""The packed ring, virtio 1.2 section 2.8."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from drivebay.controllers.virtio.registers import DescriptorFlag, EventFlag, PackedDesc
from drivebay.controllers.virtio.ring import (
    EMPTY,
    INDIRECT,
    NEXT,
    WRITE,
    Chain,
    Queue,
    Rows,
    adjoining,
    indirect_table,
    place,
)
from drivebay.platform.virtio import PackedDescriptor, QueueSetup, RingError

__all__ = ["PackedQueue"]

AVAIL = int(DescriptorFlag.AVAIL)
USED = int(DescriptorFlag.USED)
BOTH = AVAIL | USED
WRAP = 1 << 15  # the wrap counter beside a position, in event offsets and vring bases

# Places in the 16-bit view of an event suppression structure.
OFFSET_WRAP, FLAGS = 0, 1
DISABLE, DESC = int(EventFlag.DISABLE), int(EventFlag.DESC)

LINKS = NEXT | INDIRECT
read_descriptor = PackedDesc.layout.unpack_from
read_three = adjoining(3).unpack_from
write_used = struct.Struct("<IH").pack_into  # len and id, at offset 8 of a descriptor


class PackedQueue(Queue):
    """A packed ring of 1 to 32768 entries.

    With a tracker, the chains that an earlier process had popped and not given back come first.
    """

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
        self._unpublished: list[tuple[int, int]] = []
        self._copies = setup.packed_tracker
        self._resubmit: list[tuple[int, list[PackedDescriptor]]] = []
        if self._copies is not None:
            used, self._resubmit = self._copies.recover(position >> 16, self._given_back)
            self._recover(used)
        self._signalled = (self._used, self._used_wrap)

    def _given_back(self, used: int) -> bool:
        """Whether the descriptor at a used position is no longer the offer it was in that lap."""
        flags = self._halves[8 * (used & ~WRAP) + 7]
        return flags & BOTH != (AVAIL if used & WRAP else USED)

    def _recover(self, used: int) -> None:
        """Go on where the last process ended: all that is in flight lies from `used` on."""
        position, wrap = used & ~WRAP, used >> 15
        self._used, self._used_wrap = position, wrap
        for ident, copies in self._resubmit:
            self._taken[ident] = len(copies)
            self._slots += len(copies)
        for _ in range(self._slots):
            # Parts of a batch that never became visible may stand there as used.
            self._halves[8 * position + 7] = AVAIL if wrap else USED
            position += 1
            if position == self.size:
                position, wrap = 0, wrap ^ 1
        self._next, self._next_wrap = position, wrap

    def remap(self) -> None:
        """Find the three parts of the ring in guest memory."""
        descriptors, driver, device = self.addresses
        self._ring = place(self.memory, descriptors, 16 * self.size, 16, "descriptor ring")
        self._halves = self._ring.cast("H")
        self._driver = place(self.memory, driver, 4, 4, "driver event suppression").cast("H")
        self._device = place(self.memory, device, 4, 4, "device event suppression").cast("H")
        self.memory.fence()

    def let_go(self) -> None:
        """Have no view of guest memory."""
        self._ring = self._halves = self._driver = self._device = EMPTY

    @property
    def position(self) -> int:
        """Where the next chain will be, and above it where the next used descriptor goes."""
        return self._offset | (self._used | self._used_wrap << 15) << 16

    @property
    def state(self) -> dict[str, int]:
        """Where the next available and the next used descriptor are, and their wrap counters."""
        return {
            "size": self.size,
            "available": self._next,
            "available-wrap": self._next_wrap,
            "used": self._used,
            "used-wrap": self._used_wrap,
        }

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

    def chains(self) -> Iterator[Chain]:
        """The chains that the driver has made available. Raises `RingError`."""
        while self._resubmit:
            yield self._take_up(*self._resubmit.pop(0))
        while (flags := self._offer()) is not None:
            yield self._pop(flags)

    def _pop(self, flags: int) -> Chain:
        """The chain at the next position, whose first descriptor has these flags.

        They came first, and the rest is valid after them: each is read once.
        """
        position = self._next
        if flags & LINKS == NEXT and position + 3 <= self.size >= self._slots + 3:
            # Mostly there are three, read as one. If not, what was read of any others is not used.
            three = read_three(self._ring, position << 4)
            at_0, size_0, _, _, at_1, size_1, _, flags_1, at_2, size_2, ident, flags_2 = three
            if flags_1 & LINKS == NEXT and not flags_2 & LINKS and self._copies is None:
                self._take(ident, 3)
                rows = at_0, size_0, flags, 0, at_1, size_1, flags_1, 0, at_2, size_2, flags_2, 0
                return ident, rows
        read: list[int] = []
        copies: list[PackedDescriptor] = []
        slots = 0
        while True:
            address, length, ident, row_flags = read_descriptor(self._ring, position << 4)
            if slots:
                flags = row_flags
            copies.append((address, length, ident, flags))
            position, slots = position + 1, slots + 1
            if position == self.size:
                position = 0
            if flags & INDIRECT:
                if read:
                    raise RingError("an indirect table in a chain")
                read += self._indirect(address, length, flags)
                break
            read += (address, length, flags, 0)
            if not flags & NEXT:
                break
            if self._slots + slots >= self.size:
                raise RingError(f"a chain longer than the ring of {self.size}")
        self._take(ident, slots)
        if self._copies is not None:
            self._copies.taken(ident, copies)
        return ident, tuple(read)

    def _take(self, ident: int, slots: int) -> None:
        """The chain in the next `slots` positions is in flight now."""
        if ident in self._taken:
            raise RingError(f"buffer id {ident} is offered again while in flight")
        self._taken[ident] = slots
        self._slots += slots
        self._next += slots
        if self._next >= self.size:
            self._next -= self.size
            self._next_wrap ^= 1

    def _take_up(self, ident: int, copies: list[PackedDescriptor]) -> Chain:
        """A chain of the last process, from the copies of its descriptors."""
        rows: list[int] = []
        for address, length, _, flags in copies:
            if flags & INDIRECT and len(copies) > 1:
                raise RingError("an indirect table in a chain")
            if flags & INDIRECT:
                return ident, self._indirect(address, length, flags)
            rows += (address, length, flags, 0)
        return ident, tuple(rows)

    def _indirect(self, address: int, length: int, flags: int) -> Rows:
        """The rows of an indirect table: all of it, in order (section 2.8.7)."""
        table = bytes(indirect_table(self.memory, address, length, flags))
        rows: list[int] = []
        for buffer, size, _, row_flags in PackedDesc.layout.iter_unpack(table):
            if row_flags & INDIRECT:
                raise RingError("an indirect table inside an indirect table")
            rows += (buffer, size, row_flags & WRITE, 0)
        return tuple(rows)

    def push_all(self, done: Sequence[int]) -> None:
        """Give many back: `done` is head and written in turn."""
        ring, size, taken, stores = self._ring, self.size, self._taken, self._unpublished
        used, mark = self._used, BOTH if self._used_wrap else 0
        numbers = iter(done)
        for head, written in zip(numbers, numbers, strict=True):
            write_used(ring, 16 * used + 8, written, head)
            stores.append((8 * used + 7, mark | WRITE if written else mark))
            slots = taken.pop(head)
            self._slots -= slots
            used += slots
            if used >= size:
                used, mark = used - size, mark ^ BOTH
            if self._copies is not None:
                self._copies.pushed(head)
        self._used, self._used_wrap = used, int(mark == BOTH)

    def publish(self) -> None:
        """Make what was pushed visible, and interrupt the driver if it wants that."""
        if not self._unpublished:
            return
        if self._copies is not None:
            self._copies.publishing(self._used | self._used_wrap << 15)
        # The first is stored last: a driver that polls it sees the whole batch or none of it.
        for half, flags in reversed(self._unpublished):
            self._halves[half] = flags
        self._unpublished.clear()
        if self._copies is not None:
            self._copies.published()
        self.memory.fence()
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

    def waiting(self) -> bool:
        """Whether there is a chain to take."""
        return bool(self._resubmit) or self._offer() is not None

    def arm(self) -> bool:
        """Ask for kicks. False if chains came meanwhile: take them."""
        if self.event_idx:
            self._device[OFFSET_WRAP] = self._offset
            self.memory.fence()
            self._device[FLAGS] = DESC
        else:
            self._device[FLAGS] = int(EventFlag.ENABLE)
        self.memory.fence()
        return not self.waiting()

    def disarm(self) -> None:
        """Ask for no kicks."""
        self._device[FLAGS] = DISABLE
