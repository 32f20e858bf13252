"""Which requests are in flight, in memory that outlives this process ("Inflight I/O tracking").

The front end keeps the area and hands it to the next server, which takes up what was popped and not
yet given back: no request is lost, and none is answered twice.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from drivebay.hosts.vhost_user.codec import PeerError
from drivebay.hosts.vhost_user.messages import Inflight, InflightDescriptor, InflightQueue

__all__ = ["InflightArea", "SplitTracker"]

HEADER: Final = InflightQueue.size
ENTRY: Final = InflightDescriptor.size
VERSION: Final = 1

# Places in the 16-bit and 64-bit views of a queue's part.
VERSION_AT, DESC_NUM_AT, LAST_BATCH_HEAD_AT, USED_IDX_AT = 4, 5, 6, 7


def next_at(head: int) -> int:
    """Place of `InflightDescriptor.next` in the 16-bit view."""
    return (HEADER + ENTRY * head) // 2 + 3


def counter_at(head: int) -> int:
    """Place of `InflightDescriptor.counter` in the 64-bit view."""
    return (HEADER + ENTRY * head) // 8 + 1


class SplitTracker:
    """A split ring's part of the area, kept in the order the specification demands."""

    def __init__(self, area: memoryview, size: int) -> None:
        self._bytes, self._halves, self._quads = area, area.cast("H"), area.cast("Q")
        self._size = size
        self._batch: list[int] = []
        self._counter = 1

    def recover(self, used_index: int) -> list[int]:
        """The heads that were in flight when the last process ended, oldest first.

        Everything in the area may be garbage: nothing of it is used as an index unchecked.
        """
        halves, size = self._halves, self._size
        if halves[VERSION_AT] != VERSION or halves[DESC_NUM_AT] != size:
            self._bytes[:] = bytes(len(self._bytes))
            halves[VERSION_AT], halves[DESC_NUM_AT] = VERSION, size
            halves[USED_IDX_AT] = used_index
            return []
        # A batch was made visible and its flags not yet cleared: they were answered.
        head = halves[LAST_BATCH_HEAD_AT]
        for _ in range(min((used_index - halves[USED_IDX_AT]) & 0xFFFF, size)):
            if head >= size:
                break
            self._bytes[HEADER + ENTRY * head] = 0
            head = halves[next_at(head)]
        halves[USED_IDX_AT] = used_index
        flying = [head for head in range(size) if self._bytes[HEADER + ENTRY * head]]
        flying.sort(key=lambda head: self._quads[counter_at(head)])
        if flying:
            self._counter = (self._quads[counter_at(flying[-1])] + 1) & (1 << 63) - 1
        return flying

    def taken(self, head: int) -> None:
        """A chain was popped."""
        self._quads[counter_at(head)] = self._counter
        self._counter += 1
        self._bytes[HEADER + ENTRY * head] = 1

    def pushed(self, head: int) -> None:
        """A chain was pushed, and will be visible with the next publish."""
        self._halves[next_at(head)] = self._halves[LAST_BATCH_HEAD_AT]
        self._halves[LAST_BATCH_HEAD_AT] = head
        self._batch.append(head)

    def published(self, used_index: int) -> None:
        """All that was pushed is visible to the driver."""
        for head in self._batch:
            self._bytes[HEADER + ENTRY * head] = 0
        self._batch.clear()
        self._halves[USED_IDX_AT] = used_index


class InflightArea:
    """The area of all queues, mapped. The descriptor stays the caller's. Raises `PeerError`."""

    def __init__(self, fd: int, shape: Inflight) -> None:
        self._queue_size = shape.queue_size
        self._stride = _stride(shape.queue_size)
        self._queues = shape.num_queues
        end = shape.mmap_offset + shape.mmap_size
        if shape.mmap_size < self._stride * self._queues or end >= 1 << 63:
            raise PeerError(f"an in-flight area of {shape.mmap_size} bytes")
        try:
            if os.fstat(fd).st_size < end:
                raise PeerError("an in-flight area past its file's end")
            self._view = memoryview(mmap.mmap(fd, end))[shape.mmap_offset :]
        except (OSError, ValueError, OverflowError) as error:
            raise PeerError(f"the in-flight area cannot be mapped: {error}") from None

    @classmethod
    def create(cls, queues: int, queue_size: int) -> tuple[int, Inflight]:
        """A fresh area: a descriptor that is the caller's, and its shape."""
        length = _stride(queue_size) * queues
        fd = os.memfd_create("drivebay-inflight", os.MFD_CLOEXEC)
        os.ftruncate(fd, length)
        return fd, Inflight(length, 0, queues, queue_size)

    def tracker(self, index: int, size: int) -> SplitTracker | None:
        """The part of queue `index`, if the area has one for its size."""
        if index >= self._queues or size > self._queue_size:
            return None
        start = index * self._stride
        return SplitTracker(self._view[start : start + HEADER + ENTRY * size], size)


def _stride(queue_size: int) -> int:
    return -(-(HEADER + ENTRY * queue_size) // 64) * 64
