"""A vfio-user client: a monitor for servers, without a machine."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

from drivebay.hosts.vfio_user.codec import Codec, Message, encode
from drivebay.hosts.vfio_user.messages import (
    MAX_DATA,
    Command,
    DeviceInfo,
    DeviceState,
    DmaAccess,
    DmaFlags,
    DmaMap,
    DmaUnmap,
    Feature,
    FeatureFlags,
    FeatureIndex,
    Flags,
    IrqInfo,
    IrqSet,
    IrqSetFlags,
    MigrationData,
    Region,
    RegionAccess,
    RegionInfo,
    Version,
)
from drivebay.platform.memory import GuestMemory
from drivebay.testing.vhost_user import GuestRam, HungUp

__all__ = ["Monitor", "RefusedByServer"]

NO_REPLY: Final = int(Flags.NO_REPLY)
TRIGGER_FD: Final = IrqSetFlags.ACTION_TRIGGER | IrqSetFlags.DATA_EVENTFD


class RefusedByServer(Exception):
    """The server has answered with an error; `error` is the errno."""

    def __init__(self, message: Message) -> None:
        super().__init__(f"{message.name}: {os.strerror(message.error)}")
        self.error = message.error


class Monitor:
    """A virtual machine monitor connected to the server at `path`, its memory mapped::

        with Monitor(path, poll=lambda: engine.turn(0.01)) as monitor:
            assert monitor.read(Region.CONFIG, 0, 2) == 0x8086

    `poll` is called while it waits; without it, it sleeps until a server in another thread or
    process has said something. With ``shared=False`` its memory is to be had by messages, which
    needs such a server. With ``start=False`` nothing is said but what a test says.
    """

    def __init__(
        self,
        path: str,
        *,
        poll: Callable[[], object] | None = None,
        shared: bool = True,
        ram: GuestRam | None = None,
        timeout: float = 10.0,
        start: bool = True,
    ) -> None:
        self._own_ram = ram is None
        self.ram = ram or GuestRam(16 << 20)
        self._shared = shared
        self.path, self.timeout = path, timeout
        self._poll = poll or self._sleep
        self._codec = Codec()
        self._inbox: list[Message] = []
        self._id = 0
        self.dma_reads = self.dma_writes = 0
        self.answers_dma = True
        """Whether DMA_READ and DMA_WRITE are done at once, or wait in `dma_waiting`."""
        self.dma_waiting: list[Message] = []
        self.capabilities: dict[str, object] = {}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.socket.connect(path)
        self.socket.setblocking(False)
        if start:
            self.negotiate()
            self.map_ram()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
        self._codec.close()
        for message in self._inbox:
            message.close_fds()
        if self._own_ram:
            self.ram.close()

    @property
    def memory(self) -> GuestMemory:
        """The guest's memory, which begins at 4 GiB."""
        return self.ram.memory

    # -- messages --------------------------------------------------------------------------------

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes as they are. Raises `HungUp`."""
        rights = array.array("i", fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fds else []
        end = time.monotonic() + self.timeout
        while data:
            try:
                data = data[self.socket.sendmsg([data], ancillary) :]
                ancillary = []
            except BlockingIOError:
                self._wait(end)
            except OSError as error:
                raise HungUp(str(error)) from None

    def call(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Message:
        """Send a command and wait for its answer. Raises `RefusedByServer` and `HungUp`."""
        self._id = (self._id + 1) & 0xFFFF
        self.send(encode(command, payload, self._id), fds)
        message = self.receive()
        if (message.id, message.command) != (self._id, command) or not message.is_reply:
            raise AssertionError(f"{message} answers {command}")
        if message.failed:
            raise RefusedByServer(message)
        return message

    def tell(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Send a command that wants no answer."""
        self.send(encode(command, payload, 0, NO_REPLY), fds)

    def receive(self) -> Message:
        """The next reply; what the server asks meanwhile is done. Raises `HungUp`."""
        end = time.monotonic() + self.timeout
        while True:
            while self._inbox:
                message = self._inbox.pop(0)
                if message.is_reply:
                    return message
                self._serve(message)
            self._take(end)

    def _take(self, end: float) -> None:
        try:
            data, ancillary, _, _ = self.socket.recvmsg(
                self._codec.wanted, socket.CMSG_SPACE(64), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            self._wait(end)
            return
        except OSError as error:
            raise HungUp(str(error)) from None
        if not data:
            raise HungUp("the server has hung up")
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        self._inbox += self._codec.receive(data, list(fds))

    def _wait(self, end: float) -> None:
        if time.monotonic() > end:
            raise AssertionError(f"no answer in {self.timeout:g} s")
        self._poll()

    def _sleep(self) -> None:
        look = select.poll()
        look.register(self.socket, select.POLLIN)
        look.poll(100)

    def serve(self) -> None:
        """Do what the server has asked so far, without waiting for a reply."""
        with contextlib.suppress(AssertionError):
            self._take(time.monotonic() - 1)
        for message in [message for message in self._inbox if not message.is_reply]:
            self._inbox.remove(message)
            self._serve(message)

    def serve_until(self, condition: Callable[[], bool]) -> None:
        """Do what the server asks until `condition` holds."""
        end = time.monotonic() + self.timeout
        while not condition():
            if time.monotonic() > end:
                raise AssertionError("it never came")
            self.serve()
            self._poll()

    def _serve(self, message: Message) -> None:
        """DMA_READ and DMA_WRITE."""
        if self.answers_dma:
            self.do_dma(message)
        else:
            self.dma_waiting.append(message)

    def do_dma(self, message: Message) -> None:
        """Do what the server has asked of our memory."""
        access = DmaAccess.unpack(message.payload)
        view = self.memory.view(access.address, access.count)
        answer = access.pack()
        if message.command == Command.DMA_READ:
            self.dma_reads += 1
            answer += bytes(view)
        else:
            assert message.command == Command.DMA_WRITE
            self.dma_writes += 1
            view[:] = message.payload[DmaAccess.size :]
            assert access.count <= MAX_DATA
        self.send(encode(message.command, answer, message.id, 1))

    # -- the usual steps -------------------------------------------------------------------------

    def negotiate(self, major: int = 0, minor: int = 1, **capabilities: object) -> None:
        """VERSION."""
        ours = {"max_msg_fds": 8, "max_data_xfer_size": 1 << 20, **capabilities}
        text = json.dumps({"capabilities": ours}).encode() + b"\0"
        answer = self.call(Command.VERSION, Version(major, minor).pack() + text).payload
        assert Version.unpack(answer) == Version(0, 0)
        self.capabilities = json.loads(answer[Version.size :].rstrip(b"\0"))["capabilities"]

    def map_ram(self) -> None:
        """DMA_MAP of all memory."""
        region = self.ram.region
        self.dma_map(region.guest_address, region.length, region.mmap_offset, shared=self._shared)

    def dma_map(
        self, address: int, size: int, offset: int = 0, *, shared: bool = True, write: bool = True
    ) -> None:
        """DMA_MAP of a part of the file of our memory."""
        flags = DmaFlags.of(READ=1, WRITE=write)
        region = DmaMap(DmaMap.size, flags, offset if shared else 0, address, size)
        self.call(Command.DMA_MAP, region.pack(), [self.ram.fd] if shared else [])

    def dma_unmap(self, address: int, size: int, flags: int = 0) -> None:
        """DMA_UNMAP."""
        region = DmaUnmap(DmaUnmap.size, flags, address, size)
        answer = self.call(Command.DMA_UNMAP, region.pack())
        assert answer.payload == region.pack()

    def device_info(self) -> DeviceInfo:
        """DEVICE_GET_INFO."""
        asked = DeviceInfo(DeviceInfo.size, 0, 0, 0)
        return DeviceInfo.unpack(self.call(Command.DEVICE_GET_INFO, asked.pack()).payload)

    def region_info(self, index: int, room: int = 256) -> tuple[RegionInfo, bytes, tuple[int, ...]]:
        """DEVICE_GET_REGION_INFO: the struct, capabilities, descriptors."""
        asked = RegionInfo(room, 0, index, 0, 0, 0)
        answer = self.call(Command.DEVICE_GET_REGION_INFO, asked.pack())
        info = RegionInfo.unpack(answer.payload)
        return info, answer.payload[RegionInfo.size :], answer.fds

    def irq_info(self, index: int) -> IrqInfo:
        """DEVICE_GET_IRQ_INFO."""
        asked = IrqInfo(IrqInfo.size, 0, index, 0)
        return IrqInfo.unpack(self.call(Command.DEVICE_GET_IRQ_INFO, asked.pack()).payload)

    def set_irqs(
        self,
        flags: int,
        index: int,
        start: int,
        count: int,
        data: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """DEVICE_SET_IRQS."""
        request = IrqSet(IrqSet.size + len(data), flags, index, start, count)
        self.call(Command.DEVICE_SET_IRQS, request.pack() + data, fds)

    def wire(self, index: int, fds: Sequence[int], start: int = 0) -> None:
        """Have interrupts of a kind signal eventfds."""
        self.set_irqs(TRIGGER_FD, index, start, len(fds), fds=fds)

    def unmask(self, index: int = 0) -> None:
        """Unmask INTx, as after each interrupt."""
        self.set_irqs(IrqSetFlags.ACTION_UNMASK | IrqSetFlags.DATA_NONE, index, 0, 1)

    def reset(self) -> None:
        """DEVICE_RESET."""
        self.call(Command.DEVICE_RESET)

    # -- regions ---------------------------------------------------------------------------------

    def read_bytes(self, region: int, offset: int, count: int) -> bytes:
        """REGION_READ."""
        payload = RegionAccess(offset, region, count).pack()
        answer = self.call(Command.REGION_READ, payload).payload
        assert answer[: len(payload)] == payload
        return answer[len(payload) :]

    def read(self, region: int, offset: int, width: int) -> int:
        """REGION_READ of a number."""
        return int.from_bytes(self.read_bytes(region, offset, width), "little")

    def write_bytes(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """REGION_WRITE, waiting for it unless it is `posted`."""
        payload = RegionAccess(offset, region, len(data)).pack()
        if posted:
            self.tell(Command.REGION_WRITE, payload + data)
        else:
            assert self.call(Command.REGION_WRITE, payload + data).payload == payload

    def write(
        self, region: int, offset: int, width: int, value: int, *, posted: bool = False
    ) -> None:
        """REGION_WRITE of a number."""
        self.write_bytes(region, offset, value.to_bytes(width, "little"), posted=posted)

    def config(self, offset: int, width: int, value: int) -> None:
        """Write to configuration space."""
        self.write(Region.CONFIG, offset, width, value)

    # -- migration -------------------------------------------------------------------------------

    def feature(self, flags: int, data: bytes = b"") -> bytes:
        """DEVICE_FEATURE: the data of the answer."""
        feature = Feature(Feature.size + 64, flags)
        return self.call(Command.DEVICE_FEATURE, feature.pack() + data).payload[Feature.size :]

    def go(self, state: int) -> None:
        """Change the migration state."""
        flags = FeatureFlags.of(SET=1, INDEX=FeatureIndex.MIG_DEVICE_STATE)
        self.feature(flags, DeviceState(state, 0).pack())

    @property
    def migration_state(self) -> int:
        """Where the device is."""
        flags = FeatureFlags.of(GET=1, INDEX=FeatureIndex.MIG_DEVICE_STATE)
        return DeviceState.unpack(self.feature(flags)).state

    def take_state(self, piece: int = 4096) -> bytes:
        """MIG_DATA_READ to the end."""
        state = b""
        while True:
            asked = MigrationData(MigrationData.size + piece, piece)
            answer = self.call(Command.MIG_DATA_READ, asked.pack()).payload
            state += answer[MigrationData.size :]
            if MigrationData.unpack(answer).size_ < piece:
                return state

    def give_state(self, state: bytes, piece: int = 4096) -> None:
        """MIG_DATA_WRITE of all of it."""
        for at in range(0, len(state), piece):
            part = state[at : at + piece]
            told = MigrationData(MigrationData.size + len(part), len(part))
            self.call(Command.MIG_DATA_WRITE, told.pack() + part)
