"""What split and packed rings have in common: chains of buffers, and the rules they must keep.

A ring is driven like this, with one interrupt decision for each `publish`::

    queue.disarm()
    for head, rows in queue.chains():
        ...
        queue.push(head, written)
    queue.publish()
    if not queue.arm():   # more came meanwhile
        ...

What a driver says in guest memory is read once, into locals. A rule it broke is a `RingError`: the
ring can no longer be trusted, and stays closed until the driver resets it.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from typing import Final, NamedTuple

from drivebay.controllers.virtio.registers import DescriptorFlag, VirtqDesc
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.virtio import QueueSetup, RingError

__all__ = [
    "EMPTY",
    "MAX_CHAIN",
    "Buffers",
    "Chain",
    "Queue",
    "Rows",
    "adjoining",
    "gather",
    "indirect_table",
    "place",
]

MAX_CHAIN: Final = 1024
"""Most descriptors in an indirect table. Section 2.7.5.3.1 forbids more than the queue has, but
Linux fills tables to the device's seg_max whatever size the queue was given."""

NEXT: Final = int(DescriptorFlag.NEXT)
WRITE: Final = int(DescriptorFlag.WRITE)
INDIRECT: Final = int(DescriptorFlag.INDIRECT)

EMPTY: Final = memoryview(b"")

Rows = tuple[int, ...]
"""The descriptors of a chain as they were read, in order, the readable first. Each is four numbers:
address, length, flags, and one of no further use. They stand in one tuple, since one for each would
cost as much as reading them.
"""

Chain = tuple[int, Rows]
"""A request: the number to give it back by, and its descriptors."""


class Queue:
    """A ring that a driver has set up. Raises `RingError` if it cannot be where it says."""

    def __init__(self, setup: QueueSetup, *, event_idx: bool) -> None:
        self.memory, self.size, self.addresses = setup.memory, setup.size, setup.addresses
        self.signal, self.linger, self.tracker = setup.signal, setup.linger, setup.tracker
        self.event_idx = event_idx
        self.held: Container[int] = ()
        """Heads of the chains that wait: a driver may not offer one again."""
        self.remap()

    def chains(self) -> Iterator[Chain]:
        """The chains that the driver has made available. Raises `RingError`.

        Any number of them may be taken; those left are there the next time.
        """
        raise NotImplementedError

    def push(self, head: int, written: int) -> None:
        """Give a chain back, with `written` bytes written to its writable buffers in order."""
        self.push_all((head, written))

    def push_all(self, done: Sequence[int]) -> None:
        """Give many back: `done` is head and written in turn."""
        raise NotImplementedError

    def repeat(self, head: int, written: int) -> None:
        """Say that a chain is given back which will be given back once more: no device does that.
        Only a split ring can say so, as the descriptors of a packed one are the answer.
        """

    def publish(self) -> None:
        """Make what was pushed visible, and interrupt the driver if it wants that."""
        raise NotImplementedError

    def waiting(self) -> bool:
        """Whether there is a chain to take."""
        raise NotImplementedError

    def arm(self) -> bool:
        """Ask for kicks. False if chains came meanwhile: take them."""
        raise NotImplementedError

    def disarm(self) -> None:
        """Ask for no kicks."""
        raise NotImplementedError

    def remap(self) -> None:
        """Find the ring in guest memory, at first and when that was laid out anew."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Have no view of guest memory until the next `remap`; nothing may be asked till then."""
        raise NotImplementedError

    @property
    def position(self) -> int:
        """Where the driver's next chain will be; see `platform.virtio.Stopped`."""
        raise NotImplementedError

    @property
    def state(self) -> dict[str, int]:
        """Its size and positions, for a person."""
        raise NotImplementedError


def place(memory: GuestMemory, address: int, length: int, align: int, what: str) -> memoryview:
    """The view of one part of a ring. Raises `RingError` if it is not RAM, or misaligned."""
    if address % align:
        raise RingError(f"{what} at {address:#x} is not aligned to {align}")
    try:
        return memory.lasting_view(address, length)
    except GuestMemoryFault as fault:
        raise RingError(f"{what}: {fault}") from None


class Buffers(NamedTuple):
    """The memory of a chain. No buffer is empty, but for one that names no RAM: it is empty in its
    place, and `fault` says what it named.
    """

    readable: list[memoryview]
    writable: list[memoryview]
    fault: GuestMemoryFault | None


def adjoining(count: int) -> struct.Struct:
    """`count` descriptors, one behind the other."""
    return struct.Struct("<" + count * VirtqDesc.layout.format.lstrip("<"))


def gather(memory: GuestMemory, rows: Rows) -> Buffers:
    """The buffers of a chain, cut as the driver or the layout of memory cut them.

    Raises `RingError` if a readable one follows a writable one (section 2.7.4.2).
    """
    readable: list[memoryview] = []
    writable: list[memoryview] = []
    fault = None
    for address, length, flags in zip(rows[::4], rows[1::4], rows[2::4], strict=True):
        if not flags & WRITE and writable:
            raise RingError("a readable buffer after a writable one")
        buffers = writable if flags & WRITE else readable
        try:
            buffers.extend(memory.views(address, length))
        except GuestMemoryFault as error:
            fault = error.with_traceback(None)  # which holds this frame, which holds `fault`
            buffers.append(EMPTY)
    return Buffers(readable, writable, fault)


def indirect_table(memory: GuestMemory, address: int, length: int, flags: int) -> memoryview:
    """The table an indirect descriptor names. Raises `RingError` (section 2.7.5.3.1)."""
    if flags & NEXT:
        raise RingError("a descriptor that is indirect and goes on")
    if not length or length % 16 or length > 16 * MAX_CHAIN:
        raise RingError(f"an indirect table of {length} bytes")
    try:
        return memory.view(address, length)
    except GuestMemoryFault as fault:
        raise RingError(f"indirect table: {fault}") from None
