"""The two rings of a VMBus channel, from the host's side.

A ring is a control page and pages of data, whose bytes wrap in the middle of packets. Indices are
offsets into the data, in steps of 8; one step always stays free, so equal indices say empty.

Whoever reads masks the other's signals while there is work, and looks once more after it has
unmasked them. Whoever finds no room says how much it waits for (pending send size), and is
signalled when there is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from drivebay.controllers.storvsp.packets import DESCRIPTOR, FOOTER, Descriptor
from drivebay.platform.memory import GuestMemory, GuestMemoryFault, barrier
from drivebay.platform.vmbus import PAGE, ChannelError
from drivebay.wire import At, Bit, Register32, RegisterMap

__all__ = ["Area", "Control", "Incoming", "Outgoing", "page_views"]


class FeatureBits(Register32):
    """What the guest knows of a ring."""

    PENDING_SEND_SIZE = Bit(0)


class Control(RegisterMap):
    """The control page of a ring."""

    WriteIndex = At(0x00, Register32)
    ReadIndex = At(0x04, Register32)
    InterruptMask = At(0x08, Register32)
    PendingSendSize = At(0x0C, Register32)
    Features = At(0x40, FeatureBits)


WRITE: Final = Control.WriteIndex.offset // 4
READ: Final = Control.ReadIndex.offset // 4
MASK: Final = Control.InterruptMask.offset // 4
PENDING: Final = Control.PendingSendSize.offset // 4
FEATURES: Final = Control.Features.offset // 4

AHEAD: Final = 1 << 14
"""Bytes that are copied at once."""
unpack_descriptor: Final = Descriptor.unpack_from
pack_descriptor: Final = Descriptor.layout.pack
pack_footer: Final = struct.Struct("<II").pack


def page_views(memory: GuestMemory, pages: Sequence[int]) -> list[memoryview]:
    """Guest pages by number, in as few pieces as they lie in. Raises `GuestMemoryFault`."""
    views: list[memoryview] = []
    first = 0
    for n in range(1, len(pages) + 1):
        if n == len(pages) or pages[n] != pages[n - 1] + 1:
            views += memory.views(pages[first] * PAGE, (n - first) * PAGE)
            first = n
    return views


class Area:
    """The bytes of a ring, wherever in guest memory its pages are."""

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        self.size = len(pages) * PAGE
        self._pieces: list[tuple[int, memoryview]] = []
        start = 0
        for view in page_views(memory, pages):
            self._pieces.append((start, view))
            start += len(view)
        self._first = self._pieces[0][1]
        """Mostly all of it."""

    def read(self, at: int, length: int) -> bytes:
        """A copy of `length` bytes from `at` on, each read once."""
        if at + length <= len(self._first):
            return bytes(self._first[at : at + length])
        if at + length > self.size:
            return self.read(at, self.size - at) + self.read(0, at + length - self.size)
        return b"".join(
            view[max(at - start, 0) : max(at + length - start, 0)] for start, view in self._pieces
        )

    def write(self, at: int, data: bytes) -> None:
        """Store `data` from `at` on."""
        if at + len(data) <= len(self._first):
            self._first[at : at + len(data)] = data
            return
        room = self.size - at
        if len(data) > room:
            self.write(0, data[room:])
            data = data[:room]
        end = at + len(data)
        for start, view in self._pieces:
            if at < start + len(view) and end > start:
                first, last = max(at - start, 0), min(end - start, len(view))
                view[first:last] = data[start + first - at : start + last - at]


class _Ring:
    """What both directions have."""

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        if len(pages) < 2:
            raise ChannelError(f"a ring of {len(pages)} pages")
        try:
            self.control = memory.view(pages[0] * PAGE, PAGE).cast("I")
            self.area = Area(memory, pages[1:])
        except GuestMemoryFault as fault:
            raise ChannelError(f"a ring: {fault}") from None
        self.size = self.area.size

    def _index(self, word: int) -> int:
        """An index of the guest's, read once."""
        index = self.control[word]
        if index >= self.size or index & 7:
            raise ChannelError(f"index {index:#x} of a ring of {self.size:#x}")
        return index


class Incoming(_Ring):
    """The ring to the host. What it holds is copied once and parsed from the copy."""

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        super().__init__(memory, pages)
        self._read = self._released = self._index(READ)
        """Where the next packet begins; and where the guest knows that it does."""
        self._write = self._index(WRITE)
        self._copy = b""
        self._at = 0
        """Of the copy, which begins at `_read` with this."""

    def take(self) -> bytes | None:
        """The next packet, without its footer, or None. Raises `ChannelError`."""
        if len(self._copy) - self._at < DESCRIPTOR + FOOTER and not self._extend(AHEAD):
            return None
        offset8, length8 = unpack_descriptor(self._copy, self._at)[1:3]
        length = 8 * length8
        if length < DESCRIPTOR or offset8 > length8:
            raise ChannelError(f"a packet of {length} bytes with data at {8 * offset8}")
        if len(self._copy) - self._at < length + FOOTER:
            self._extend(length + FOOTER)
            if len(self._copy) - self._at < length + FOOTER:
                raise ChannelError(f"a packet of {length} bytes, of which the ring has less")
        packet = self._copy[self._at : self._at + length]
        self._at += length + FOOTER
        self._read = (self._read + length + FOOTER) % self.size
        return packet

    def _extend(self, wanted: int) -> bool:
        """Copy more, up to `wanted` bytes from the next packet on. Whether there are any."""
        write = self._index(WRITE)
        if (write - self._read) % self.size < (self._write - self._read) % self.size:
            raise ChannelError(f"the write index went back from {self._write:#x} to {write:#x}")
        self._write = write
        kept = self._copy[self._at :]
        there = (write - self._read) % self.size
        more = min(wanted, there) - len(kept)
        if more > 0:
            kept += self.area.read((self._read + len(kept)) % self.size, more)
        self._copy, self._at = kept, 0
        if 0 < there < DESCRIPTOR + FOOTER:
            raise ChannelError(f"{there} bytes are no packet")
        return there > 0

    def release(self) -> bool:
        """Give the guest the room of what was taken. Whether it waits for that, to be signalled."""
        read, before = self._read, self._released
        if read == before:
            return False
        self.control[READ] = self._released = read
        barrier()  # the guest stores what it waits for, then looks at our index; we do the reverse
        pending = self.control[PENDING] & ~7
        if not pending:
            return False
        free = (read - self.control[WRITE] - 8) % self.size  # an index that is none is found later
        return free - (read - before) % self.size < pending <= free

    @property
    def waiting(self) -> bool:
        """Whether there is a packet to take."""
        return self.control[WRITE] != self._read

    def mask(self) -> None:
        """Ask for no signals."""
        self.control[MASK] = 1

    def unmask(self) -> bool:
        """Ask for signals. False if packets came meanwhile: take them."""
        self.control[MASK] = 0
        barrier()
        return not self.waiting


class Outgoing(_Ring):
    """The ring to the guest. What is put there is seen with the next `publish`."""

    def __init__(self, memory: GuestMemory, pages: Sequence[int]) -> None:
        super().__init__(memory, pages)
        self._write = self._published = self._index(WRITE)
        self._read = self._index(READ)
        self.tells_room = bool(self.control[FEATURES] & FeatureBits.PENDING_SEND_SIZE)
        """The guest signals when there is the room that was waited for."""

    @property
    def free(self) -> int:
        """Bytes of room, by what the guest says now. Raises `ChannelError`."""
        read = self._index(READ)
        if (self._published - read) % self.size > (self._published - self._read) % self.size:
            raise ChannelError(f"the read index went from {self._read:#x} to {read:#x}")
        self._read = read
        return (read - self._write - 8) % self.size

    def put(self, kind: int, flags: int, transaction: int, payload: bytes) -> None:
        """Add a packet, for which there must be room."""
        length8 = (DESCRIPTOR + len(payload) + 7) // 8
        packet = (
            pack_descriptor(kind, DESCRIPTOR // 8, length8, flags, transaction)
            + payload
            + bytes(-len(payload) % 8)
            + pack_footer(0, self._write)
        )
        self.area.write(self._write, packet)
        self._write = (self._write + len(packet)) % self.size

    def publish(self) -> bool:
        """Show the guest what was put. Whether it is to be signalled."""
        before = self._published
        if before == self._write:
            return False
        self.control[WRITE] = self._published = self._write
        barrier()  # the guest unmasks, then looks at our index; we do the reverse
        return not self.control[MASK] and self.control[READ] == before

    def has_room(self, size: int) -> bool:
        """Whether there are `size` bytes of room; if not, ask to be signalled when there are."""
        if self.free < size:
            self.control[PENDING] = size
            barrier()
            if self.free < size:
                return False
        self.control[PENDING] = 0
        return True
