"""Arbitrary vhost-user messages, descriptors and guest memory against a block device.

    python -m fuzz.fuzz_vhost_user -max_total_time=60

A peer's mistake is a `PeerError`, or an `OSError` of a descriptor that is no good. Anything else, a
line in the log at ERROR or a descriptor left open is a find.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay"]):
    from drivebay.controllers.virtio.block import BlockDevice
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.hosts.vhost_user.codec import Codec, Message, PeerError, encode
    from drivebay.hosts.vhost_user.messages import Request
    from drivebay.hosts.vhost_user.session import Session
    from drivebay.platform.engine import Engine
    from fuzz.support import fuzz

REQUESTS = [int(request) for request in Request]
MEMORY = 1 << 16
NUMBERS = [0, 1, 2, 3, 4, 8, 16, 64, 256, 0x1000, 0x2000, 0x3000, 0x8000, MEMORY, 1 << 30]
NUMBERS += [1 << 32, 1 << 34, 1 << 32 | 1 << 30, 1 << 34 | 1 << 32, 1 << 63, (1 << 64) - 1]
SUITS: dict[int, int] = {  # which descriptor of a peer
    Request.SET_MEM_TABLE: 0,
    Request.ADD_MEM_REG: 0,
    Request.SET_INFLIGHT_FD: 0,
    Request.SET_VRING_KICK: 1,
    Request.SET_VRING_CALL: 1,
    Request.SET_VRING_ERR: 1,
    Request.SET_BACKEND_REQ_FD: 4,
}


def number(data: atheris.FuzzedDataProvider) -> int:
    if data.ConsumeBool():
        return int(data.PickValueInList(NUMBERS))
    return int(data.ConsumeIntInRange(0, (1 << 64) - 1))


def payload(data: atheris.FuzzedDataProvider, request: int) -> bytes:
    """What may be right for a request, or anything."""
    kind = data.ConsumeIntInRange(0, 9)
    if kind == 0:
        return bytes(data.ConsumeBytes(data.ConsumeIntInRange(0, 300)))
    index = data.ConsumeIntInRange(0, 2)
    if request == Request.SET_VRING_ADDR:
        places = [data.ConsumeIntInRange(0, 15) << 12 for _ in range(3)]
        return struct.pack("<II4Q", index, 0, *places, 0)
    if request in (Request.SET_MEM_TABLE, Request.ADD_MEM_REG):
        count = data.ConsumeIntInRange(0, 3) if request == Request.SET_MEM_TABLE else 1
        regions = [
            struct.pack("<4Q", n * MEMORY, MEMORY, n * MEMORY, 0)
            if data.ConsumeBool()
            else struct.pack("<4Q", *(number(data) for _ in range(4)))
            for n in range(count)
        ]
        return struct.pack("<Q", count) + b"".join(regions)
    if request in (Request.GET_INFLIGHT_FD, Request.SET_INFLIGHT_FD):
        return struct.pack("<QQHH", MEMORY, number(data) & 0xFFF, index, number(data) & 0xFFFF)
    if request in (Request.GET_CONFIG, Request.SET_CONFIG):
        size = data.ConsumeIntInRange(0, 70)
        return struct.pack("<III", index * 16, size, 0) + bytes(data.ConsumeBytes(size))
    if request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR):
        return struct.pack("<Q", index | data.ConsumeIntInRange(0, 1) << 8)
    if request.bit_length() and kind < 6:
        return struct.pack("<II", index, number(data) & 0xFFFFFFFF)
    return struct.pack("<Q", number(data))


def prelude(data: atheris.FuzzedDataProvider) -> list[tuple[int, bytes]]:
    """Messages that start a ring: what is in it is arbitrary all the same."""
    packed = data.ConsumeIntInRange(0, 1) << 34
    size = 1 << data.ConsumeIntInRange(0, 4)
    messages = [
        (Request.SET_FEATURES, struct.pack("<Q", packed | 1 << 32 | 1 << 28 | 1 << 29)),
        (Request.SET_MEM_TABLE, struct.pack("<Q4Q", 1, 0, MEMORY, 0, 0)),
        (Request.SET_INFLIGHT_FD, struct.pack("<QQHH", 0x1000, 0xF000, 1, 16)),
        (Request.SET_VRING_NUM, struct.pack("<II", 0, size)),
        (Request.SET_VRING_ADDR, struct.pack("<II4Q", 0, 0, 0x1000, 0x3000, 0x2000, 0)),
        (Request.SET_VRING_CALL, bytes(8)),
        (Request.SET_VRING_KICK, bytes(8)),
    ]
    if data.ConsumeBool():
        del messages[2]
    return [(int(request), body) for request, body in messages]


class Peer:
    """One connection's end: what it has to give, and the session it talks to."""

    def __init__(self, data: atheris.FuzzedDataProvider) -> None:
        self.data = data
        memory = os.memfd_create("memory")
        os.ftruncate(memory, MEMORY)
        for place in range(0, MEMORY, 0x1000):
            os.pwrite(memory, data.ConsumeBytes(data.ConsumeIntInRange(0, 64)), place)
        ours, theirs = socket.socketpair()
        kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.fds = [memory, kick, *os.pipe(), ours.detach(), theirs.detach()]

    def some(self, request: int) -> list[int]:
        """Descriptors that suit a request, or any."""
        if not self.data.ConsumeIntInRange(0, 9):
            count = self.data.ConsumeIntInRange(0, 9)
            return [os.dup(self.data.PickValueInList(self.fds)) for _ in range(count)]
        return suitable(self, request)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def suitable(peer: Peer, request: int) -> list[int]:
    """The descriptor that a request needs."""
    place = SUITS.get(request)
    return [] if place is None else [os.dup(peer.fds[place])]


def feed(codec: Codec, data: bytes, fds: list[int], bytewise: bool = False) -> Iterator[Message]:
    """The messages in `data`, which the codec gets in one or many pieces."""
    while data:
        taken = 1 if bytewise else codec.wanted
        part, data = data[:taken], data[taken:]
        yield from codec.receive(part, fds)
        fds = []


def ignore(data: bytes, fd: int | None = None) -> None:
    """Nobody reads the answers."""


def one_input(raw: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    data = atheris.FuzzedDataProvider(raw)
    peer, codec = Peer(data), Codec()
    session = Session(device, engine, ignore, lambda: None)
    setup = prelude(data) if data.ConsumeIntInRange(0, 2) else []
    try:
        for request, body in setup:
            for whole in feed(codec, encode(request, body), suitable(peer, request)):
                session.handle(whole)
        while data.remaining_bytes() > 1 and not session.busy:
            request = data.PickValueInList(REQUESTS)
            message = encode(request, payload(data, request), NEED_REPLY=1)
            if not data.ConsumeIntInRange(0, 30):
                message = bytes(data.ConsumeBytes(12)) + message
            for whole in feed(codec, message, peer.some(request), data.ConsumeBool()):
                session.handle(whole)
            if not data.ConsumeIntInRange(0, 3):
                os.eventfd_write(peer.fds[1], 1)
                engine.turn(0)
    except (PeerError, OSError):
        pass
    finally:
        codec.close()
        session.close()
        engine.turn(0)
        session.forget()
        peer.close()
    after = len(os.listdir("/proc/self/fd"))
    assert after == before, f"{after - before} descriptors are left"


engine = Engine(workers=0)
device = BlockDevice(RamDisk(1 << 20), engine, queues=2)

if __name__ == "__main__":
    fuzz(one_input)
