"""A guest's side of a channel's two rings."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from drivebay.controllers.storvsp.packets import Descriptor
from drivebay.drivers.arena import Arena
from drivebay.platform.memory import barrier
from drivebay.platform.vmbus import PAGE

__all__ = ["GuestRing", "Received"]

WRITE, READ, MASK, PENDING, FEATURES = 0, 1, 2, 3, 16  # words of a control page
COMPLETION_REQUESTED: Final = 1


class Received(NamedTuple):
    """A packet of the host's."""

    type: int
    transaction: int
    payload: bytes


class GuestRing:
    """Two rings of `pages` pages of data each, in memory from `arena`."""

    def __init__(self, arena: Arena, pages: int) -> None:
        self.size = pages * PAGE
        self.downstream = pages + 1
        """Pages of the ring to the host; the other follows."""
        half = self.downstream * PAGE
        self.address = arena.take(2 * half, PAGE)
        memory = arena.memory
        self.to_host = memory.view(self.address, PAGE).cast("I")
        self.from_host = memory.view(self.address + half, PAGE).cast("I")
        self.out_data = memory.view(self.address + PAGE, self.size)
        self.in_data = memory.view(self.address + half + PAGE, self.size)
        self.reset()

    @property
    def pages(self) -> list[int]:
        """The numbers of the pages of both."""
        first = self.address // PAGE
        return list(range(first, first + 2 * self.downstream))

    def reset(self) -> None:
        """Empty, as they are before a channel is opened."""
        for control in (self.to_host, self.from_host):
            for word in (WRITE, READ, MASK, PENDING):
                control[word] = 0
            control[FEATURES] = 1
        self._write = self._read = 0

    # -- to the host -----------------------------------------------------------------------------

    def room(self) -> int:
        """Bytes that fit."""
        return (self.to_host[READ] - self._write - 8) % self.size

    def send(
        self,
        kind: int,
        transaction: int,
        payload: bytes,
        header: bytes = b"",
        flags: int = COMPLETION_REQUESTED,
    ) -> bool:
        """Put a packet there. Whether the host is to be signalled. Raises `BlockingIOError` if the
        ring is full; the host then signals when there is room.
        """
        start = Descriptor.size + len(header)
        length = -(-(start + len(payload)) // 8) * 8
        descriptor = Descriptor(kind, start // 8, length // 8, flags, transaction).pack()
        return self.send_raw((descriptor + header + payload).ljust(length, b"\0"))

    def send_raw(self, packet: bytes) -> bool:
        """The same for the bytes of a packet, right or wrong."""
        packet += struct.pack("<II", 0, self._write)
        if self.room() < len(packet):
            self.to_host[PENDING] = len(packet)
            barrier()
            if self.room() < len(packet):
                raise BlockingIOError("the ring is full")
        self.to_host[PENDING] = 0
        before, room = self._write, self.size - self._write
        self.out_data[before : before + min(room, len(packet))] = packet[:room]
        self.out_data[: max(len(packet) - room, 0)] = packet[room:]
        self.to_host[WRITE] = self._write = (before + len(packet)) % self.size
        barrier()
        return not self.to_host[MASK] and self.to_host[READ] == before

    # -- from the host ---------------------------------------------------------------------------

    def receive(self) -> tuple[list[Received], bool]:
        """All that the host has put there, and whether it waits for the room."""
        write = self.from_host[WRITE]
        there = (write - self._read) % self.size
        if not there:
            return [], False
        data = bytes(self.in_data[self._read : self._read + there])
        data += bytes(self.in_data[: there - len(data)])
        received, at = [], 0
        while at < there:
            kind, offset8, length8, _, transaction = Descriptor.unpack_from(data, at)
            footer = struct.unpack_from("<II", data, at + 8 * length8)
            if footer != (0, (self._read + at) % self.size):
                raise AssertionError(f"footer {footer} of a packet at {self._read + at}")
            payload = data[at + 8 * offset8 : at + 8 * length8]
            received.append(Received(kind, transaction, payload))
            at += 8 * length8 + 8
        before = (self._read - write - 8) % self.size
        self.from_host[READ] = self._read = write
        barrier()
        pending = self.from_host[PENDING]
        after = (write - self.from_host[WRITE] - 8) % self.size
        return received, bool(pending) and before < pending <= after

    def mask(self) -> None:
        """Want no interrupts."""
        self.from_host[MASK] = 1

    def unmask(self) -> bool:
        """Want them. False if packets came meanwhile."""
        self.from_host[MASK] = 0
        barrier()
        return self.from_host[WRITE] == self._read
