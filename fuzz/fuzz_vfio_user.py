"""Arbitrary vfio-user messages, descriptors and memory against two PCI functions.

    python -m fuzz.fuzz_vfio_user -max_total_time=60

A peer's mistake is a `PeerError`, or an `OSError` of a descriptor that is no good, or an error in
the reply. Anything else, a line in the log at ERROR or a descriptor left open is a find.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay"]):
    from drivebay.ata.disk import AtaDisk
    from drivebay.controllers.ide import PiixIde
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.hosts.peer import PeerError
    from drivebay.hosts.vfio_user.codec import Codec, Message, encode
    from drivebay.hosts.vfio_user.memory import ClientMemory
    from drivebay.hosts.vfio_user.messages import Command
    from drivebay.hosts.vfio_user.session import Session
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.platform.pci import PciFunction, PciIdentity
    from drivebay.platform.pci_capabilities import PciExpress, PowerManagement, add_capabilities
    from drivebay.platform.pci_messages import MsiCapability, MsixCapability
    from fuzz.support import fuzz

COMMANDS = [int(command) for command in Command]
MEMORY = 1 << 16
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 256, 0x1000, 0x8000, MEMORY, 1 << 20, 1 << 31]
NUMBERS += [1 << 32, (1 << 32) - 1, 1 << 63, (1 << 64) - 1]
PLACES = [(0, 8), (1, 4), (2, 8), (3, 4), (4, 16), (5, 8192), (7, 256)]
IDE_COMMANDS = [0x20, 0x25, 0x30, 0x35, 0xC8, 0xCA, 0xEC, 0xE7, 0xA0, 0x08]


def number(data: atheris.FuzzedDataProvider) -> int:
    if data.ConsumeBool():
        return int(data.PickValueInList(NUMBERS))
    return int(data.ConsumeIntInRange(0, (1 << 64) - 1))


def access(data: atheris.FuzzedDataProvider) -> tuple[int, int, int]:
    """Offset, region and count, mostly of what there is."""
    region, size = data.PickValueInList(PLACES)
    if data.ConsumeIntInRange(0, 15):
        return data.ConsumeIntInRange(0, size - 1), region, 1 << data.ConsumeIntInRange(0, 3)
    return number(data), number(data) & 0xFFFFFFFF, number(data) & 0xFFFF


def payload(data: atheris.FuzzedDataProvider, command: int) -> bytes:
    """What may be right for a command, or anything."""
    if not data.ConsumeIntInRange(0, 9):
        return bytes(data.ConsumeBytes(data.ConsumeIntInRange(0, 100)))
    if command == Command.VERSION:
        return (
            struct.pack("<HH", data.ConsumeIntInRange(0, 1), 1)
            + bytes(data.ConsumeBytes(40))
            + b"\0"
        )
    if command == Command.DMA_MAP:
        page, pages = data.ConsumeIntInRange(0, 15), data.ConsumeIntInRange(0, 16)
        if data.ConsumeBool():
            return struct.pack("<IIQQQ", 32, page & 3, 0, page << 12, pages << 12)
        return struct.pack("<IIQQQ", 32, 3, *(number(data) for _ in range(3)))
    if command == Command.DMA_UNMAP:
        page, pages = data.ConsumeIntInRange(0, 15), data.ConsumeIntInRange(0, 16)
        return struct.pack("<IIQQ", 24, page & 2, page << 12, pages << 12)
    if command == Command.DEVICE_SET_IRQS:
        flags = 1 << data.ConsumeIntInRange(0, 2) | 8 << data.ConsumeIntInRange(0, 2)
        fields = (data.ConsumeIntInRange(0, 5) for _ in range(3))
        return struct.pack("<5I", 20, flags, *fields) + bytes(data.ConsumeBytes(4))
    if command == Command.REGION_READ:
        return struct.pack("<QII", *access(data))
    if command == Command.REGION_WRITE:
        offset, region, count = access(data)
        if (offset, region) == (7, 0):
            return struct.pack("<QIIB", 7, 0, 1, data.PickValueInList(IDE_COMMANDS))
        return struct.pack("<QII", offset, region, count) + bytes(data.ConsumeBytes(count)).ljust(
            count, b"\1"
        )
    if command == Command.REGION_WRITE_MULTI:
        count = data.ConsumeIntInRange(0, 3)
        writes = [struct.pack("<QIIQ", *access(data), number(data)) for _ in range(count)]
        return struct.pack("<Q", count) + b"".join(writes)
    if command == Command.DEVICE_FEATURE:
        flags = data.ConsumeIntInRange(0, 8) | data.ConsumeIntInRange(0, 7) << 16
        return struct.pack("<IIII", 16, flags, data.ConsumeIntInRange(0, 6), 0)
    if command in (Command.MIG_DATA_READ, Command.MIG_DATA_WRITE):
        size = data.ConsumeIntInRange(0, 64)
        written = command == Command.MIG_DATA_WRITE
        return struct.pack("<II", size, size) + (bytes(data.ConsumeBytes(size)) if written else b"")
    if command == Command.DEVICE_RESET:
        return b""
    return struct.pack("<4I", 64, 0, data.ConsumeIntInRange(0, 10), 0).ljust(32, b"\0")


class Peer:
    """The other end, as the session's link: what it has to give, and what it says."""

    def __init__(self, data: atheris.FuzzedDataProvider) -> None:
        self.data = data
        memory = os.memfd_create("memory")
        os.ftruncate(memory, MEMORY)
        for place in range(0, MEMORY, 0x1000):
            os.pwrite(memory, data.ConsumeBytes(data.ConsumeIntInRange(0, 32)), place)
        self.fds = [memory, os.eventfd(0, os.EFD_NONBLOCK), *os.pipe()]
        self.unread: deque[Message] = deque()
        self.asked: deque[tuple[int, int, bytes]] = deque()
        self.failed = False

    def some(self, command: int) -> list[int]:
        """Descriptors that suit a command, or any."""
        if not self.data.ConsumeIntInRange(0, 9):
            count = self.data.ConsumeIntInRange(0, 5)
            return [os.dup(self.data.PickValueInList(self.fds)) for _ in range(count)]
        if command == Command.DMA_MAP and self.data.ConsumeBool():
            return [os.dup(self.fds[0])]
        if command == Command.DEVICE_SET_IRQS and self.data.ConsumeBool():
            return [os.dup(self.fds[1])]
        return []

    def command(self, codec: Codec) -> Iterator[Message]:
        """The next thing it says."""
        command = self.data.PickValueInList(COMMANDS)
        flags = 16 if not self.data.ConsumeIntInRange(0, 7) else 0
        message = encode(command, payload(self.data, command), 1, flags)
        if not self.data.ConsumeIntInRange(0, 40):
            message = bytes(self.data.ConsumeBytes(12)) + message
        fds = self.some(command)
        if self.data.ConsumeBool():
            yield from codec.receive(message, fds)
            return
        for byte in message:
            yield from codec.receive(bytes([byte]), fds)
            fds = []

    # -- the link --------------------------------------------------------------------------------

    def send(self, data: bytes, fd: int | None = None) -> None:
        self.send_all(data, 0)

    def send_all(self, data: bytes, seconds: float) -> None:
        for message in Codec().receive(data):
            if not message.is_reply:
                self.asked.append((message.command, message.id, message.payload))

    def answers(self, codec: Codec) -> Iterator[Message]:
        """What the server has asked, answered as it may be."""
        while self.asked:
            command, identity, body = self.asked.popleft()
            _, count = struct.unpack_from("<QQ", body)
            answer = body[:16]
            if command == Command.DMA_READ:
                answer += bytes(self.data.ConsumeBytes(count)).ljust(count, b"\2")
            flags = 1 if self.data.ConsumeIntInRange(0, 9) else 0x21
            yield from codec.receive(encode(command, answer, identity, flags))

    def wait_for(self, wanted: Callable[[Any, bool], bool], seconds: float) -> Any | None:
        for _ in range(4):
            for place, message in enumerate(self.unread):
                if wanted(message, not place):
                    del self.unread[place]
                    return message
            codec = Codec()
            try:
                if self.data.ConsumeBool():
                    self.unread.extend(self.command(codec))
                self.unread.extend(self.answers(Codec()))
            except PeerError:
                break
            finally:
                codec.close()
        self.failed = True
        return None

    def fail(self, why: object) -> None:
        self.failed = True

    def resumed(self) -> None:
        pass

    def close(self) -> None:
        for message in self.unread:
            message.close_fds()
        for fd in self.fds:
            os.close(fd)


def one_input(raw: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    data = atheris.FuzzedDataProvider(raw)
    peer, codec = Peer(data), Codec()
    function = ide if data.ConsumeIntInRange(0, 4) else endpoint
    session = Session(function, memory, engine, peer)
    try:
        if data.ConsumeIntInRange(0, 9):
            region = struct.pack("<IIQQQ", 32, 3, 0, 0, MEMORY)
            fds = [os.dup(peer.fds[0])] if data.ConsumeIntInRange(0, 3) else []
            peer.unread.extend(codec.receive(encode(Command.VERSION, bytes(4))))
            peer.unread.extend(codec.receive(encode(Command.DMA_MAP, region), fds))
            peer.unread.extend(
                codec.receive(encode(Command.REGION_WRITE, struct.pack("<QIIH", 4, 7, 2, 7)))
            )
        while data.remaining_bytes() > 1 and not peer.failed:
            peer.unread.extend(peer.command(codec))
            peer.unread.extend(peer.answers(Codec()))
            while peer.unread and not session.busy and not peer.failed:
                session.handle(peer.unread.popleft())
            engine.turn(0)
    except (PeerError, OSError):
        pass
    finally:
        codec.close()
        session.close()
        session.forget()
        engine.turn(0)
        peer.close()
    after = len(os.listdir("/proc/self/fd"))
    assert after == before, f"{after - before} descriptors are left"


engine = Engine(workers=0)
memory = ClientMemory()
nowhere = (Line(lambda _: None), Line(lambda _: None))
ide = PiixIde(memory, nowhere, PciIdentity(0x8086, 0x7111, 0x010185), switchable=True)
add_capabilities(ide, [PowerManagement(), MsiCapability(2), PciExpress()], at=0x60)
ide.attach(0, 0, AtaDisk(RamDisk(1 << 20), engine))
msix = MsixCapability(4, bar=5)
endpoint = PciFunction(PciIdentity(0x1AF4, 0x1234, 0xFF0000), {5: msix.whole_bar()}, 4096)
add_capabilities(endpoint, [msix, PowerManagement()])

if __name__ == "__main__":
    fuzz(one_input)
