"""Which requests are in flight, in memory that outlives this process ("Inflight I/O tracking").

The front end keeps the area and hands it to the next server, which takes up what was popped and not
yet given back: no request is lost, and none is answered twice. Whatever the instant at which this
process ends, the area and the ring together say what had happened; so the order of the stores below
matters. Nothing of the area is used as an index unchecked: it may be garbage, and may change.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, fcntl
from typing import Final

from drivebay.hosts.vhost_user.codec import PeerError
from drivebay.hosts.vhost_user.messages import (
    Inflight,
    PackedRegion,
    PackedState,
    SplitRegion,
    SplitState,
)
from drivebay.platform.virtio import PackedDescriptor, RingError

__all__ = ["InflightArea", "PackedTracker", "SplitTracker"]

VERSION: Final = 1
WRAP: Final = 1 << 15  # the wrap counter beside a position in a packed ring

DRIVER_STATE: Final = 8  # bytes
DRIVER_STATE_MARK: Final = int.from_bytes(b"drvb", "little")

# Places in the 16-bit view of a queue's part, of either kind.
VERSION_AT, DESC_NUM_AT = 4, 5


class SplitTracker:
    """A split ring's part of the area, kept in the order the specification demands."""

    LAST_BATCH_HEAD, USED_IDX = 6, 7  # places in the 16-bit view

    def __init__(self, area: memoryview, size: int) -> None:
        self._bytes, self._halves = area, area.cast("H")
        # Of each head's `SplitState`:
        start, step = SplitRegion.size, SplitState.size
        self._inflight = area[start::step]
        self._next = self._halves[start // 2 + 3 :: step // 2]
        self._counters = area.cast("Q")[start // 8 + 1 :: step // 8]
        self._size = size
        self._batch: list[int] = []
        self._counter = 1

    @staticmethod
    def length(size: int) -> int:
        """Bytes of the part of a ring of `size`."""
        return SplitRegion.size + SplitState.size * size

    def recover(self, used_index: int) -> list[int]:
        """The heads that were in flight when the last process ended, oldest first."""
        halves, size = self._halves, self._size
        if halves[VERSION_AT] != VERSION or halves[DESC_NUM_AT] != size:
            self._bytes[:] = bytes(len(self._bytes))
            halves[self.USED_IDX] = used_index
            halves[DESC_NUM_AT] = size
            halves[VERSION_AT] = VERSION
            return []
        # A batch was made visible and its flags not yet cleared: they were answered.
        head = halves[self.LAST_BATCH_HEAD]
        for _ in range(min((used_index - halves[self.USED_IDX]) & 0xFFFF, size)):
            if head >= size:
                break
            self._inflight[head] = 0
            head = self._next[head]
        halves[self.USED_IDX] = used_index
        flying = [head for head in range(size) if self._inflight[head]]
        flying.sort(key=lambda head: self._counters[head])
        if flying:
            self._counter = (self._counters[flying[-1]] + 1) & (1 << 63) - 1
        return flying

    def taken(self, head: int) -> None:
        """A chain was popped."""
        self._counters[head] = self._counter
        self._counter += 1
        self._inflight[head] = 1

    def pushed(self, heads: Sequence[int]) -> None:
        """Chains were pushed, and will be visible with the next publish."""
        halves, following = self._halves, self._next
        last = halves[self.LAST_BATCH_HEAD]
        for head in heads:
            following[head] = last
            halves[self.LAST_BATCH_HEAD] = last = head
        self._batch += heads

    def published(self, used_index: int) -> None:
        """All that was pushed is visible to the driver."""
        for head in self._batch:
            self._inflight[head] = 0
        self._batch.clear()
        self._halves[self.USED_IDX] = used_index


class PackedTracker:
    """A packed ring's part of the area.

    Used descriptors overwrite those of chains in flight, so the area has copies of these, linked as
    chains; what is in no chain is linked as the free list. Each change is prepared beside what is
    valid, and made so by one store of the old free head or of the used positions, new and old.
    Chains that are pushed join the free list only when they are published: until then their entries
    must not be taken for others.
    """

    FREE_HEADS, POSITIONS = 3, 2  # free_head and old_free_head as 32 bits, used positions as 64
    OLD_FREE_HEAD = 7  # in the 16-bit view

    _copy: Final = struct.Struct("<HHIQ")  # id, flags, len and addr of `PackedState`
    COPY_AT: Final = 16

    def __init__(self, area: memoryview, size: int) -> None:
        self._bytes, self._halves, self._quads = area, area.cast("H"), area.cast("Q")
        self._words = area.cast("I")
        self._size = size
        self._chains: dict[int, tuple[int, int]] = {}  # by id: first and last entry
        self._batch: list[tuple[int, int]] = []
        self._free = self._used = self._new = 0
        self._counter = 1

    @staticmethod
    def length(size: int) -> int:
        """Bytes of the part of a ring of `size`."""
        return PackedRegion.size + PackedState.size * size

    @staticmethod
    def _entry(n: int) -> int:
        return PackedRegion.size + PackedState.size * n

    def _next(self, n: int) -> int:
        return self._halves[self._entry(n) // 2 + 1]

    def recover(
        self, used: int, given_back: Callable[[int], bool]
    ) -> tuple[int, list[tuple[int, list[PackedDescriptor]]]]:
        """Where the next used descriptor goes, and the chains in flight, oldest first.

        `used` is where it goes if the area is new. `given_back` tells whether the descriptor at a
        position is no longer the driver's offer. Raises `RingError` if the area makes no sense.
        """
        halves, size = self._halves, self._size
        if halves[VERSION_AT] != VERSION or halves[DESC_NUM_AT] != size:
            self._bytes[:] = bytes(len(self._bytes))
            for n in range(size):
                halves[self._entry(n) // 2 + 1] = n + 1
            self._used = used
            self._set_positions(used, used)
            halves[DESC_NUM_AT] = size
            halves[VERSION_AT] = VERSION
            return used, []
        self._recover_used(given_back)
        idle = self._free_list()
        for n in idle:
            self._bytes[self._entry(n)] = 0
        heads = [n for n in range(size) if self._bytes[self._entry(n)]]
        heads.sort(key=lambda n: self._quads[self._entry(n) // 8 + 1])
        if heads:
            self._counter = (self._quads[self._entry(heads[-1]) // 8 + 1] + 1) & (1 << 63) - 1
        chains = []
        for head in heads:
            entries = self._chain(head, idle)
            copies = [self._copy.unpack_from(self._bytes, self._at(n)) for n in entries]
            ident = copies[-1][0]  # section 2.8.6: it is that of the last descriptor
            if ident in self._chains:
                raise RingError(f"the in-flight area has buffer id {ident} twice")
            self._chains[ident] = head, entries[-1]
            chains.append((ident, [(addr, len_, id_, flags) for id_, flags, len_, addr in copies]))
        return self._used, chains

    def _recover_used(self, given_back: Callable[[int], bool]) -> None:
        """End the publish that was under way, or undo it."""
        positions = self._quads[self.POSITIONS].to_bytes(8, "little")
        new_index, index, new_wrap, wrap = struct.unpack_from("<HHBB", positions)
        self._used, new = index | (wrap & 1) << 15, new_index | (new_wrap & 1) << 15
        if index >= self._size or new_index >= self._size:
            raise RingError(f"the in-flight area has used index {max(index, new_index)}")
        if new != self._used and given_back(self._used):
            self._free = self._halves[self.OLD_FREE_HEAD - 1]
            self._used = new
        else:
            self._free = self._halves[self.OLD_FREE_HEAD]
        self._words[self.FREE_HEADS] = self._free | self._free << 16
        self._set_positions(self._used, self._used)

    def _free_list(self) -> set[int]:
        entries: set[int] = set()
        n = self._free
        while n < self._size and n not in entries:
            entries.add(n)
            n = self._next(n)
        return entries

    def _chain(self, head: int, taken: set[int]) -> list[int]:
        """The entries of a chain, which are then `taken`."""
        entries = []
        n = head
        for _ in range(self._halves[self._entry(head) // 2 + 3]):
            if n >= self._size or n in taken:
                break
            taken.add(n)
            entries.append(n)
            n = self._next(n)
        if not entries or len(entries) != self._halves[self._entry(head) // 2 + 3]:
            raise RingError(f"the in-flight area has no whole chain at {head}")
        return entries

    def _at(self, n: int) -> int:
        return self._entry(n) + self.COPY_AT

    def _set_positions(self, new: int, old: int) -> None:
        """Both used positions in one store: neither may be seen with half of the other."""
        self._quads[self.POSITIONS] = (
            new & ~WRAP | (old & ~WRAP) << 16 | (new >> 15) << 32 | (old >> 15) << 40
        )
        self._new = new

    def taken(self, ident: int, descriptors: list[PackedDescriptor]) -> None:
        """A chain was popped: its descriptors as they stand in the ring. Raises `RingError`."""
        head = last = n = self._free
        for address, length, id_, flags in descriptors:
            if n >= self._size:
                raise RingError("the in-flight area has no room for a chain")
            self._copy.pack_into(self._bytes, self._at(n), id_, flags, length, address)
            last, n = n, self._next(n)
        at = self._entry(head) // 2
        self._halves[at + 2], self._halves[at + 3] = last, len(descriptors)
        self._quads[self._entry(head) // 8 + 1] = self._counter
        self._counter += 1
        self._bytes[self._entry(head)] = 1
        self._words[self.FREE_HEADS] = n | n << 16
        self._free = n
        self._chains[ident] = head, last

    def pushed(self, ident: int) -> None:
        """A chain was pushed, and will be visible with the next publish."""
        self._batch.append(self._chains.pop(ident))

    def publishing(self, used: int) -> None:
        """All that was pushed is about to become visible; the next goes to `used`."""
        for head, last in self._batch:
            self._halves[self._entry(last) // 2 + 1] = self._free
            self._free = head
        self._halves[self.OLD_FREE_HEAD - 1] = self._free
        self._set_positions(used, self._used)

    def published(self) -> None:
        """It is visible."""
        for head, _ in self._batch:
            self._bytes[self._entry(head)] = 0
        self._batch.clear()
        self._halves[self.OLD_FREE_HEAD] = self._free
        self._used = self._new
        self._set_positions(self._used, self._used)


class InflightArea:
    """The area of all queues, mapped. The descriptor stays the caller's. Raises `PeerError`."""

    def __init__(self, fd: int, shape: Inflight) -> None:
        self._queue_size, self._queues = shape.queue_size, shape.num_queues
        end = shape.mmap_offset + shape.mmap_size
        if shape.mmap_size < DRIVER_STATE or end >= 1 << 63:
            raise PeerError(f"an in-flight area of {shape.mmap_size} bytes")
        try:
            if os.fstat(fd).st_size < end:
                raise PeerError("an in-flight area past its file's end")
            self._view = memoryview(mmap.mmap(fd, end))[shape.mmap_offset :]
        except (OSError, ValueError, OverflowError) as error:
            raise PeerError(f"the in-flight area cannot be mapped: {error}") from None

    @classmethod
    def create(cls, queues: int, queue_size: int) -> tuple[int, Inflight]:
        """A fresh area with room for either kind of ring: a descriptor that is the caller's, and
        its shape. It cannot be truncated under those who have it mapped.
        """
        length = _stride(PackedTracker.length(queue_size)) * queues + _stride(DRIVER_STATE)
        fd = os.memfd_create("drivebay-inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, length)
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
        return fd, Inflight(length, 0, queues, queue_size)

    @property
    def driver_state(self) -> int | None:
        """What the driver had switched when the last process ended; it is behind all queues."""
        state, mark = struct.unpack("<II", self._view[-DRIVER_STATE:])
        return state if mark == DRIVER_STATE_MARK else None

    @driver_state.setter
    def driver_state(self, state: int | None) -> None:
        mark = 0 if state is None else DRIVER_STATE_MARK
        self._view[-DRIVER_STATE:] = struct.pack("<II", state or 0, mark)

    def split(self, index: int, size: int) -> SplitTracker:
        """The part of queue `index`, a split ring of `size`. Raises `PeerError`."""
        return SplitTracker(self._part(index, SplitTracker.length, size), size)

    def packed(self, index: int, size: int) -> PackedTracker:
        """The part of queue `index`, a packed ring of `size`. Raises `PeerError`."""
        return PackedTracker(self._part(index, PackedTracker.length, size), size)

    def wipe(self, index: int, *, packed: bool) -> None:
        """Forget the requests of a queue, if the area has a part for it."""
        length = PackedTracker.length if packed else SplitTracker.length
        version = index * _stride(length(self._queue_size)) + 2 * VERSION_AT
        if index < self._queues and version + 2 <= len(self._view):
            self._view[version : version + 2] = b"\0\0"

    def _part(self, index: int, length: Callable[[int], int], size: int) -> memoryview:
        start = index * _stride(length(self._queue_size))
        end = start + length(size)
        if index >= self._queues or size > self._queue_size or end > len(self._view):
            raise PeerError(f"no room in the in-flight area for ring {index} of {size} entries")
        return self._view[start:end]


def _stride(length: int) -> int:
    return -(-length // 64) * 64
