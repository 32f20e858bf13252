"""The split ring, virtio 1.2 section 2.7."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

from drivebay.controllers.virtio.registers import AvailFlag, UsedFlag, VirtqDesc
from drivebay.controllers.virtio.ring import (
    EMPTY,
    INDIRECT,
    NEXT,
    Chain,
    Queue,
    Rows,
    adjoining,
    indirect_table,
    place,
)
from drivebay.platform.virtio import QueueSetup, RingError

__all__ = ["SplitQueue"]

# Places in the 16-bit view of either ring; its entries follow, and then the event index.
FLAGS, IDX, ENTRIES = 0, 1, 2

read_descriptor = VirtqDesc.layout.unpack_from
read_descriptors = VirtqDesc.layout.iter_unpack
read_two = adjoining(2).unpack_from
read_three = adjoining(3).unpack_from
LINKS = NEXT | INDIRECT
NO_NOTIFY = int(UsedFlag.NO_NOTIFY)
NO_INTERRUPT = int(AvailFlag.NO_INTERRUPT)


class SplitQueue(Queue):
    """A split ring, of a power of two of entries up to 32768.

    With a tracker, the heads that an earlier process had popped and not given back come first.
    """

    def __init__(self, setup: QueueSetup, *, event_idx: bool) -> None:
        size = setup.size
        if not 0 < size <= 32768 or size & (size - 1):
            raise RingError(f"a split ring of {size} entries")
        self._mask = size - 1
        super().__init__(setup, event_idx=event_idx)
        self._resubmit: list[int] = []
        self._pushed = self._published = self._used[IDX]
        self._popped = (setup.position or 0) & 0xFFFF  # indices run freely, modulo 2^16
        if self.tracker is not None:
            self._resubmit = self.tracker.recover(self._published)
            self._popped = (self._published + len(self._resubmit)) & 0xFFFF

    def remap(self) -> None:
        """Find the three parts of the ring in guest memory."""
        size, (descriptors, driver, device) = self.size, self.addresses
        self._table = place(self.memory, descriptors, 16 * size, 16, "descriptor table")
        self._avail = place(self.memory, driver, 6 + 2 * size, 2, "available ring").cast("H")
        used = place(self.memory, device, 6 + 8 * size, 4, "used ring")
        self._used = used.cast("H")
        self._used_elements = used[4 : 4 + 8 * size].cast("I")
        self._avail_event = ENTRIES + 4 * size
        self.memory.fence()

    def let_go(self) -> None:
        """Have no view of guest memory."""
        self._table = self._avail = self._used = self._used_elements = EMPTY

    @property
    def position(self) -> int:
        """The available index of the next chain."""
        return self._popped

    @property
    def state(self) -> dict[str, int]:
        """The indices up to which chains were taken and given back."""
        return {"size": self.size, "available": self._popped, "used": self._pushed}

    def chains(self) -> Iterator[Chain]:
        """The chains that the driver has made available. Raises `RingError`."""
        tracker, held = self.tracker, self.held
        while self._resubmit:
            head = self._resubmit.pop(0)
            yield head, self._rows(head)
        avail, mask, rows_of = self._avail, self._mask, self._rows
        popped = self._popped
        offered = avail[IDX]
        if (offered - popped) & 0xFFFF > self.size:
            raise RingError(f"available index jumped from {popped} to {offered}")
        while popped != offered:
            head = avail[ENTRIES + (popped & mask)]
            self._popped = popped = (popped + 1) & 0xFFFF
            if head > mask or head in held:
                raise RingError(f"descriptor {head} of {self.size} is offered, or again")
            rows = rows_of(head)
            if tracker is not None:
                tracker.taken(head)
            yield head, rows

    def _rows(self, head: int) -> Rows:
        """The descriptors of the chain at `head`.

        Mostly they are three, one behind the other in the ring or in a table, and read as one. What
        was read of any others is not used: those are read one by one, each once.
        """
        row = read_descriptor(self._table, head << 4)
        address, length, flags, following = row
        rows: Rows = ()
        if flags == INDIRECT and length == 48:
            start, size, ram = self.memory.window
            at = address - start
            if 0 <= at <= size - 48:
                rows, following = read_three(ram, at), 1
        elif flags == NEXT and following < self.size - 1:
            rows = row + read_two(self._table, following << 4)
        if rows:
            _, _, flags_0, next_0, _, _, flags_1, next_1, _, _, flags_2, _ = rows
            chained = flags_0 & LINKS == flags_1 & LINKS == NEXT and not flags_2 & LINKS
            if chained and next_0 == following and next_1 == following + 1:
                return rows
        return self._indirect(row) if flags & INDIRECT else self._follow(row)

    def _follow(self, row: Rows) -> Rows:
        """The descriptors from `row` on, each read once."""
        rows = list(row)
        table, size = self._table, self.size
        while row[2] & NEXT:
            if row[3] >= size or len(rows) == 4 * size:
                raise RingError(f"a chain that leaves its ring of {size}, or a loop")
            row = read_descriptor(table, row[3] << 4)
            if row[2] & INDIRECT:  # section 2.7.5.3.2 allows one at the end
                rows += self._indirect(row)
                break
            rows += row
        return tuple(rows)

    def _indirect(self, row: Rows) -> Rows:
        """The descriptors of the table that `row` names, each read once."""
        address, length, flags, _ = row
        table = indirect_table(self.memory, address, length, flags)
        rows = tuple(chain.from_iterable(read_descriptors(bytes(table))))
        for n, (flags, following) in enumerate(zip(rows[2::4], rows[3::4], strict=True), 1):
            if flags & INDIRECT:
                raise RingError("an indirect table inside an indirect table")
            if not flags & NEXT:
                return rows[: 4 * n]
            if following != n:
                break
        return self._relink(rows)

    def _relink(self, table: Rows) -> Rows:
        """The rows of a table whose links do not simply run from one to the next."""
        rows = list(table[:4])
        while rows[-2] & NEXT:
            following = 4 * rows[-1]
            if following >= len(table) or len(rows) == len(table):
                raise RingError(f"a chain that leaves its table of {len(table) // 4}, or a loop")
            rows += table[following : following + 4]
            if rows[-2] & INDIRECT:
                raise RingError("an indirect table inside an indirect table")
        return tuple(rows)

    def push_all(self, done: Sequence[int]) -> None:
        """Give many back: `done` is head and written in turn, just as the ring has them."""
        elements = self._used_elements
        start = 2 * (self._pushed & self._mask)
        if len(done) == 2:
            elements[start], elements[start + 1] = done
        else:
            room = 2 * self.size - start
            for at, part in ((start, done[:room]), (0, done[room:])):
                elements[at : at + len(part)] = array("I", part)
        self._pushed = (self._pushed + len(done) // 2) & 0xFFFF
        if self.tracker is not None:
            self.tracker.pushed(done[::2])

    repeat = Queue.push

    def publish(self) -> None:
        """Make what was pushed visible, and interrupt the driver if it wants that."""
        old, new = self._published, self._pushed
        if old == new:
            return
        self._used[IDX] = new
        self._published = new
        if self.tracker is not None:
            self.tracker.published(new)
        self.memory.fence()  # the driver stores its wish, then looks at used.idx; we do the reverse
        if self.event_idx:
            used_event = self._avail[ENTRIES + self.size]
            wanted = (new - used_event - 1) & 0xFFFF < (new - old) & 0xFFFF
        else:
            wanted = not self._avail[FLAGS] & NO_INTERRUPT
        if wanted:
            self.signal()

    def waiting(self) -> bool:
        """Whether there is a chain to take."""
        return bool(self._resubmit) or self._avail[IDX] != self._popped

    def arm(self) -> bool:
        """Ask for kicks. False if chains came meanwhile: take them."""
        if self.event_idx:
            self._used[self._avail_event] = self._popped
        else:
            self._used[FLAGS] = 0
        self.memory.fence()
        return not self.waiting()

    def disarm(self) -> None:
        """Ask for no kicks. With EVENT_IDX there is nothing to do: the event stays in the past."""
        if not self.event_idx:
            self._used[FLAGS] = NO_NOTIFY
