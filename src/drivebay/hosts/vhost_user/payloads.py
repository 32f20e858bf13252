"""What requests carry, checked: each function raises `PeerError` for what it cannot be."""

from __future__ import annotations

from typing import TypeVar

from drivebay.hosts.vhost_user.codec import Message, PeerError
from drivebay.hosts.vhost_user.messages import (
    MAX_REGIONS,
    Inflight,
    MemoryRegion,
    MemoryTable,
    Number,
    SingleRegion,
)
from drivebay.wire import Struct

__all__ = ["inflight", "number", "only_fd", "region", "regions", "unpack"]

S = TypeVar("S", bound=Struct)


def unpack(kind: type[S], message: Message, *, exact: bool = True) -> S:
    """The struct a message begins with; unless `exact` more may follow."""
    size = len(message.payload)
    if size < kind.size or (exact and size != kind.size):
        raise PeerError(f"{message.name} with {size} bytes, expected {kind.size}")
    return kind.unpack(message.payload)


def number(message: Message) -> int:
    """The number that is all of the payload."""
    return unpack(Number, message).value


def only_fd(message: Message) -> int:
    """The descriptor of a message that has just one. It stays the message's."""
    if len(message.fds) != 1:
        raise PeerError(f"{message.name} with {len(message.fds)} descriptors, not 1")
    return message.fds[0]


def regions(message: Message) -> list[MemoryRegion]:
    """The regions of SET_MEM_TABLE. User-Mode Linux sends room for two, whatever their count."""
    count = unpack(MemoryTable, message, exact=False).count
    size = len(message.payload)
    if count > MAX_REGIONS or size < MemoryTable.size + count * MemoryRegion.size:
        raise PeerError(f"{message.name}: {count} regions in {size} bytes")
    return [
        MemoryRegion.unpack(message.payload, MemoryTable.size + n * MemoryRegion.size)
        for n in range(count)
    ]


def region(message: Message) -> MemoryRegion:
    """The region of ADD_MEM_REG and REM_MEM_REG."""
    single = unpack(SingleRegion, message)
    return MemoryRegion(
        single.guest_address, single.length, single.user_address, single.mmap_offset
    )


def inflight(message: Message) -> Inflight:
    """The shape of an in-flight area. QEMU sends the four bytes too that C puts behind it."""
    if len(message.payload) > Inflight.size + 4:
        raise PeerError(f"{message.name} with {len(message.payload)} bytes")
    return unpack(Inflight, message, exact=False)
