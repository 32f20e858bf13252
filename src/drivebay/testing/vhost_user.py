"""A vhost-user front end with a block driver in it: a guest for servers, without a machine."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from drivebay.controllers.virtio.registers import BlockConfig, BlockStatus, RingFeature
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import ALL_FEATURES, BlockDriver, DeviceError, Pending
from drivebay.drivers.virtio_ring import SplitDriverRing
from drivebay.hosts.vhost_user.codec import Codec, Message, encode
from drivebay.hosts.vhost_user.messages import (
    PROTOCOL_FEATURES,
    BackendRequest,
    ConfigHeader,
    Header,
    Inflight,
    MemoryRegion,
    MemoryTable,
    Number,
    ProtocolFeature,
    Request,
    VringAddress,
    VringState,
)
from drivebay.platform.memory import GuestMemory, Region

__all__ = ["FrontEnd", "GuestRam", "HungUp"]

GUEST: Final = 0x1_0000_0000
USER: Final = 0x7F00_0000_0000
OFFSET: Final = 0x3000
START_OF_PACKED: Final = 0x8000_8000  # both wrap counters are 1


def readable(fds: Sequence[int], milliseconds: int) -> list[int]:
    """Those of `fds` that can be read, or have hung up, within so long; they may be above 1023."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(milliseconds)]


class HungUp(DeviceError):
    """The server has closed the connection."""


class GuestRam:
    """Guest memory in a memfd: at `GUEST` for the guest, at `USER` for the front end, at `OFFSET`
    in its file, so that whoever takes one address for another is found out.
    """

    def __init__(self, size: int, *, sealed: bool = True) -> None:
        self.fd = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, OFFSET + size)
        if sealed:
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = GuestMemory(
            [Region(GUEST, memoryview(mmap.mmap(self.fd, OFFSET + size))[OFFSET:])]
        )
        self.region = MemoryRegion(GUEST, size, USER, OFFSET)

    @staticmethod
    def user(address: int) -> int:
        """The front end's address for one of the guest's."""
        return address - GUEST + USER

    def close(self) -> None:
        """Let go of the file, and of the memory but for what has been given out."""
        os.close(self.fd)
        self.memory.replace([])


class FrontEnd(BlockDriver):
    """A guest on the server at `path`: connected, its rings running, ready to read and write::

        engine = Engine()
        server = VhostUserServer(BlockDevice(RamDisk(1 << 20), engine), engine, listen(path))
        with FrontEnd(path, poll=lambda: engine.turn(0.01)) as guest:
            guest.write(0, b"hello".ljust(512))
            assert guest.read(0, 512) == b"hello".ljust(512)

    `poll` is called while it waits; without it, it sleeps until a server in another thread or
    process has said something. What the server offers is accepted if it is in `features` and
    `protocol_features`. With ``start=False`` nothing is said, and a test can `call`, `tell` and
    `send` what it likes, or take the usual steps one by one.

    Its memory, its rings and the in-flight area outlive a connection, as in QEMU: `reconnect` goes
    on where a server that died had been. Raises `DeviceError` for an answer that is not as it must
    be, and `HungUp`.
    """

    def __init__(
        self,
        path: str,
        *,
        poll: Callable[[], object] | None = None,
        packed: bool = False,
        features: int = ALL_FEATURES,
        protocol_features: int = ALL_FEATURES,
        queues: int = 1,
        queue_size: int = 64,
        ram: GuestRam | None = None,
        timeout: float = 10.0,
        start: bool = True,
    ) -> None:
        self._own_ram = ram is None
        self.ram = ram or GuestRam(16 << 20)
        super().__init__(Arena(self.ram.memory, GUEST, self.ram.region.length), poll or self._sleep)
        self.path, self.queues, self.queue_size, self.timeout = path, queues, queue_size, timeout
        self._packed = packed
        self._wanted = features if packed else features & ~(1 << RingFeature.RING_PACKED)
        self._wanted_protocol = protocol_features
        self.protocol_features = 0
        self.kicks, self.calls, self.errors = (
            [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(queues)]
            for _ in range(3)
        )
        self.inflight: tuple[int, Inflight] | None = None
        self._positions = [START_OF_PACKED if packed else 0] * queues
        self._codec = Codec()
        self.socket, self.channel = _no_socket(), _no_socket()
        self.connect()
        if start:
            self.negotiate()
            self.initialise()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- messages --------------------------------------------------------------------------------

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are. Raises `HungUp`."""
        try:
            if fds:
                socket.send_fds(self.socket, [data], list(fds))
            else:
                self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise HungUp(f"the server hung up: {error}") from None

    def receive(self) -> Message:
        """The next message from the server. Raises `HungUp`, and `DeviceError` in the end."""
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            if not readable([self.socket.fileno()], 0):
                self._poll()
                continue
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, self._codec.wanted, 8)
            except ConnectionResetError as error:
                raise HungUp(f"the server hung up: {error}") from None
            if not data:
                raise HungUp("the server hung up")
            for message in self._codec.receive(data, fds):
                return message
        raise DeviceError("no answer")

    def call(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = (), **flags: int
    ) -> Message:
        """Send a request and take its answer."""
        self.send(encode(request, payload, **flags), fds)
        answer = self.receive()
        if answer.request != request or not answer.flags.REPLY:
            raise DeviceError(f"asked for {request}, got {answer}")
        return answer

    def get(self, request: int) -> int:
        """The number that answers a request."""
        return Number.unpack(self.call(request).payload).value

    def tell(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a request that has no answer; it is acknowledged if that was agreed on."""
        if not self.agreed(ProtocolFeature.REPLY_ACK):
            self.send(encode(request, payload), fds)
        elif Number.unpack(self.call(request, payload, fds, NEED_REPLY=1).payload).value:
            raise DeviceError(f"request {request} failed")

    def agreed(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature was negotiated."""
        return bool(self.protocol_features >> feature & 1)

    def config_changes(self) -> int:
        """How many changes of the configuration space the server has told since the last call."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while data := self.channel.recv(Header.size, socket.MSG_DONTWAIT):
                if data != encode(BackendRequest.CONFIG_CHANGE_MSG):
                    raise DeviceError(f"the server asks {data!r}")
                count += 1
        return count

    # -- the steps of a session ------------------------------------------------------------------

    def connect(self) -> None:
        """Connect to the server."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.settimeout(self.timeout)
        self.socket.connect(self.path)
        self.socket.settimeout(None)

    def negotiate(self) -> None:
        """Agree on features, become the owner, and open the server's channel back to us."""
        offered = self.get(Request.GET_FEATURES)
        self.features = offered & self._wanted & ~(1 << PROTOCOL_FEATURES)
        if self._packed and not self.has(RingFeature.RING_PACKED):
            raise DeviceError("the server offers no packed rings")
        self.protocol_features = self.get(Request.GET_PROTOCOL_FEATURES) & self._wanted_protocol
        protocol = Number(self.protocol_features).pack()
        self.send(encode(Request.SET_PROTOCOL_FEATURES, protocol))
        if self.get(Request.GET_QUEUE_NUM) < self.queues:
            raise DeviceError(f"the server has not {self.queues} queues")
        self.tell(Request.SET_OWNER)
        if self.agreed(ProtocolFeature.BACKEND_REQ):
            self.channel, theirs = socket.socketpair()
            with theirs:
                self.tell(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        features = self.features | 1 << PROTOCOL_FEATURES
        self.tell(Request.SET_FEATURES, Number(features).pack())

    def initialise(self) -> None:
        """Lay out fresh rings, as after a reset, and start them."""
        self._pending.clear()
        self._positions = [START_OF_PACKED if self._packed else 0] * self.queues
        self._rings = [self.make_ring(self.queue_size) for _ in range(self.queues)]
        if self.inflight is not None:
            os.close(self.inflight[0])
            self.inflight = None
        self.start()

    def start(self) -> None:
        """Share memory and the in-flight area, and start the rings."""
        table = MemoryTable(1, 0).pack() + self.ram.region.pack()
        self.tell(Request.SET_MEM_TABLE, table, [self.ram.fd])
        if self.agreed(ProtocolFeature.INFLIGHT_SHMFD):
            self.share_inflight()
        for index in range(self.queues):
            self.start_ring(index)

    def share_inflight(self) -> None:
        """Give the server its in-flight area, a fresh one if there is none yet."""
        if self.inflight is None:
            asked = Inflight(0, 0, self.queues, self.queue_size)
            answer = self.call(Request.GET_INFLIGHT_FD, asked.pack())
            [fd] = answer.fds
            self.inflight = fd, Inflight.unpack(answer.payload)
        fd, shape = self.inflight
        self.tell(Request.SET_INFLIGHT_FD, shape.pack(), [fd])

    def start_ring(self, index: int) -> None:
        """Set up a ring as QEMU does, and enable it."""
        ring = self.ring(index)
        position = self._positions[index]
        if isinstance(ring, SplitDriverRing):
            position = ring.used[1]  # all before has been answered
        descriptors, driver, device = map(self.ram.user, ring.addresses)
        address = VringAddress(index, 0, descriptors, device, driver, 0)
        self.tell(Request.SET_VRING_NUM, VringState(index, ring.size).pack())
        self.tell(Request.SET_VRING_BASE, VringState(index, position).pack())
        self.tell(Request.SET_VRING_ADDR, address.pack())
        self.tell(Request.SET_VRING_ERR, Number(index).pack(), [self.errors[index]])
        self.tell(Request.SET_VRING_KICK, Number(index).pack(), [self.kicks[index]])
        self.tell(Request.SET_VRING_CALL, Number(index).pack(), [self.calls[index]])
        self.tell(Request.SET_VRING_ENABLE, VringState(index, 1).pack())

    def stop(self) -> list[int]:
        """Stop the rings; where they will go on."""
        for index in range(self.queues):
            answer = self.call(Request.GET_VRING_BASE, VringState(index, 0).pack())
            self._positions[index] = VringState.unpack(answer.payload).value
        return list(self._positions)

    def disconnect(self) -> None:
        """Hang up; memory, rings and the in-flight area stay."""
        self._codec.close()
        self._codec = Codec()
        self.socket.close()
        self.channel.close()

    def reconnect(self, path: str | None = None) -> None:
        """Go on at a server that has come in the place of the last, here or at another path."""
        self.disconnect()
        self.path = path or self.path
        self.connect()
        self.negotiate()
        self.start()

    def close(self) -> None:
        """Hang up and let go of everything but memory that was given to it."""
        self.disconnect()
        for fd in (*self.kicks, *self.calls, *self.errors):
            os.close(fd)
        if self.inflight is not None:
            os.close(self.inflight[0])
        self.kicks, self.calls, self.errors, self.inflight = [], [], [], None
        self._rings = []
        if self._own_ram:
            self.ram.close()

    # -- the driver ------------------------------------------------------------------------------

    @property
    def config(self) -> BlockConfig:
        """The configuration space."""
        head = ConfigHeader(0, BlockConfig.size, 0)
        answer = self.call(Request.GET_CONFIG, head.pack() + bytes(head.length))
        return BlockConfig.unpack(answer.payload, ConfigHeader.size)

    def write_config(self, offset: int, data: bytes) -> None:
        """Write to the configuration space."""
        self.tell(Request.SET_CONFIG, ConfigHeader(offset, len(data), 0).pack() + data)

    def notify(self, queue: int) -> None:
        """Kick."""
        os.eventfd_write(self.kicks[queue], 1)

    def acknowledge(self) -> None:
        """Take note of interrupts."""
        for call in readable(self.calls, 0):
            os.eventfd_read(call)

    def wait(self, pending: Pending, turns: int = 0) -> int:
        """Wait for a request, `timeout` seconds at most; its status."""
        end = time.monotonic() + self.timeout
        while time.monotonic() < end:
            self.collect()
            if pending.written is not None:
                return self.memory.view(pending.status_at, 1)[0]
            self._poll()
        raise DeviceError("a request does not end")

    def result(self, pending: Pending) -> bytes:
        """The data of a request that has ended; its memory is free for another.

        Raises `DeviceError` unless it went well.
        """
        status = self.memory.view(pending.status_at, 1)[0]
        data = bytes(self.memory.view(pending.data, pending.length))
        self._free_slots.append((pending.data - 32, pending.length))
        if status != BlockStatus.OK:
            raise DeviceError("a request failed", status)
        return data

    def _sleep(self) -> None:
        """Until the server says something, or a moment has passed."""
        readable([self.socket.fileno(), *self.calls], 10)


def _no_socket() -> socket.socket:
    nothing = socket.socket(socket.AF_UNIX)
    nothing.close()
    return nothing
