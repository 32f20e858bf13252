"""One client's session with a PCI function.

Sans-IO: messages come in by `handle`, answers go out by the `link` it was given. A message may end
only when the device has: while `busy`, the next one must wait.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from drivebay.hosts.peer import PeerError
from drivebay.hosts.vfio_user.codec import REPLY, TYPE, Message, error_reply, reply
from drivebay.hosts.vfio_user.dma import DmaByMessages, Link
from drivebay.hosts.vfio_user.interrupts import Interrupts
from drivebay.hosts.vfio_user.memory import ClientMemory, Refused
from drivebay.hosts.vfio_user.messages import (
    MAX_DATA,
    NUM_REGIONS,
    STOP_COPY_SUPPORTED,
    UNMAP_ALL,
    Command,
    DeviceFlags,
    DeviceInfo,
    DeviceState,
    DmaMap,
    DmaUnmap,
    Feature,
    FeatureFlags,
    FeatureIndex,
    Irq,
    IrqInfo,
    IrqSet,
    MigrationData,
    MigrationSupport,
    Region,
    RegionAccess,
    RegionInfo,
    SmallWrite,
    WriteMulti,
)
from drivebay.hosts.vfio_user.migration import Migration
from drivebay.hosts.vfio_user.regions import Regions
from drivebay.hosts.vfio_user.version import negotiate
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.logs import RationedLog
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.onlooker import Onlooker
from drivebay.platform.pci import PciFunction
from drivebay.platform.ports import Hold, PortSpace
from drivebay.wire import Struct

__all__ = ["Session"]

log = logging.getLogger(__name__)

UNMAP_SECONDS: Final = 2.0
"""So long DMA_UNMAP waits for system calls under way. QEMU gives up after five."""
LOOK_AGAIN: Final = 0.001
CONFIG: Final = int(Region.CONFIG)
ACCESS: Final = RegionAccess.size
unpack_access = RegionAccess.layout.unpack_from

S = TypeVar("S", bound=Struct)


class Session:
    """A client's connection to `function`, which sees the client's memory as `memory`."""

    def __init__(
        self,
        function: PciFunction,
        memory: ClientMemory,
        engine: Engine,
        link: Link,
        peer_log: RationedLog | None = None,
    ) -> None:
        self._log = peer_log or RationedLog(log)
        self._function, self._memory, self._engine, self._link = function, memory, engine, link
        self._regions = Regions(function)
        self._migration = Migration(function)
        self._dma = DmaByMessages(memory, engine, link, self._log, self.handle)
        self._interrupts = Interrupts(function, engine, self._log, self._dma.when_written)
        self._greeted = self._busy = self._closed = False
        self.messages = 0
        function.plugged(PortSpace(), MmioSpace(), Line(self._interrupts.intx))

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at accesses and interrupts."""
        self._regions.watch(onlooker)
        self._interrupts.onlooker = onlooker

    @property
    def busy(self) -> bool:
        """Whether the last message is not done yet."""
        return self._busy

    # -- messages --------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Do what a message asks; its descriptors are closed then, a handler keeps duplicates.

        Raises `PeerError` if it is against the protocol, and `OSError` if a descriptor is no good.
        """
        self.messages += 1
        try:
            if kind := message.flags & TYPE:
                if kind != REPLY:
                    raise PeerError(f"a message of type {kind}")
                self._dma.answered(message)
                return
            if self._dma.behind:
                self._dma.catch_up()
            if not self._greeted and message.command != Command.VERSION:
                raise PeerError(f"{message.name} before VERSION: is this a vfio-user client?")
            handler = _HANDLERS.get(message.command)
            if message.fds and message.command not in _TAKES_FDS:
                raise PeerError(f"{message.name} with {len(message.fds)} descriptors")
            if handler is None:
                raise Refused(errno.EOPNOTSUPP, f"{message.name} is not supported")
            handler(self, message)
        except Refused as refused:
            self._log.warning("vfio-user: refused: %s", refused)
            if message.wants_reply:
                self._link.send(error_reply(message, refused.error))
        finally:
            if message.fds:
                message.close_fds()
        if self._memory.has_copies:
            self._dma.flush()

    def _answer(self, message: Message, payload: bytes = b"", fd: int | None = None) -> None:
        if message.wants_reply:
            self._link.send(reply(message, payload), fd)

    def _hold(self, done: Callable[[], bool], finish: Callable[[], None]) -> None:
        """`finish` when it is `done`, or has taken too long. Meanwhile other messages wait."""
        end = time.monotonic() + UNMAP_SECONDS

        def look() -> None:
            if self._closed:
                return
            if done() or time.monotonic() > end:
                self._busy = False
                finish()
                self._link.resumed()
            else:
                self._engine.after(LOOK_AGAIN, look)

        if done():
            finish()
        else:
            self._busy = True
            self._engine.after(LOOK_AGAIN, look)

    def version(self, message: Message) -> None:
        """VERSION."""
        if self._greeted:
            raise PeerError("a second VERSION")
        client, answer = negotiate(message.payload)
        self._memory.piece = min(MAX_DATA, client.max_data_xfer_size)
        self._greeted = True
        self._answer(message, answer)

    def device_get_info(self, message: Message) -> None:
        """DEVICE_GET_INFO. QEMU asks when it has told of all its memory."""
        asked = _unpack(DeviceInfo, message, exact=False)
        _check_room(message, asked.argsz, DeviceInfo.size)
        self._dma.look_shared()
        flags = DeviceFlags.of(PCI=1, RESET=1)
        info = DeviceInfo(DeviceInfo.size, flags, NUM_REGIONS, len(Irq))
        self._answer(message, info.pack())

    def device_get_region_info(self, message: Message) -> None:
        """DEVICE_GET_REGION_INFO."""
        asked = _unpack(RegionInfo, message, exact=False)
        _check_room(message, asked.argsz, RegionInfo.size)
        payload, fd = self._regions.info(asked.index, asked.argsz)
        self._answer(message, payload, fd)

    def device_get_irq_info(self, message: Message) -> None:
        """DEVICE_GET_IRQ_INFO."""
        asked = _unpack(IrqInfo, message, exact=False)
        _check_room(message, asked.argsz, IrqInfo.size)
        self._answer(message, self._interrupts.info(asked.index).pack())

    def device_set_irqs(self, message: Message) -> None:
        """DEVICE_SET_IRQS."""
        request = _unpack(IrqSet, message, exact=False)
        self._interrupts.set(request, message.payload[IrqSet.size :], message.fds)
        self._answer(message)

    def device_reset(self, message: Message) -> None:
        """DEVICE_RESET."""
        _empty(message)
        self._attempt(message, self._reset)
        self._answer(message)

    def _reset(self) -> None:
        self._migration.reset()
        self._function.reset()
        self._interrupts.reset()

    # -- memory ----------------------------------------------------------------------------------

    def dma_map(self, message: Message) -> None:
        """DMA_MAP."""
        if len(message.fds) > 1:
            raise PeerError(f"DMA_MAP with {len(message.fds)} descriptors")
        region = _unpack(DmaMap, message)
        self._memory.map(region, message.fds[0] if message.fds else None)
        self._answer(message)

    def dma_unmap(self, message: Message) -> None:
        """DMA_UNMAP: it ends when nothing of ours touches the region any more."""
        region = _unpack(DmaUnmap, message)
        if region.flags & UNMAP_ALL:
            left = self._memory.unmap_all()
        elif region.flags:
            raise Refused(errno.EINVAL, f"DMA_UNMAP with flags {region.flags:#x}")
        else:
            left = [self._memory.unmap(region.address, region.size_)]

        def all_closed() -> bool:
            left[:] = [close for close in left if not close()]
            return not left

        self._hold(all_closed, lambda: self._answer(message, message.payload))

    # -- regions ---------------------------------------------------------------------------------

    def region_read(self, message: Message) -> None:
        """REGION_READ."""
        payload = message.payload
        if len(payload) != ACCESS:
            raise PeerError(f"REGION_READ with {len(payload)} bytes, expected {ACCESS}")
        offset, region, count = unpack_access(payload)
        if count > MAX_DATA:
            raise Refused(errno.EINVAL, f"REGION_READ of {count} bytes")
        if self._memory.has_copies:
            self._memory.write_back()  # what a status may tell of
        data = self._attempt(message, self._regions.read, region, offset, count)
        self._answer(message, payload + data)

    def region_write(self, message: Message) -> None:
        """REGION_WRITE."""
        payload = message.payload
        if len(payload) < ACCESS:
            raise PeerError(f"REGION_WRITE with {len(payload)} bytes")
        offset, region, count = unpack_access(payload)
        if len(payload) != ACCESS + count:
            raise PeerError(f"REGION_WRITE of {count} bytes with {len(payload) - ACCESS}")
        data = payload[ACCESS:]
        early = self._memory.by_messages  # the client reads its memory only after the answer
        if early:
            self._regions.check(region, offset, count)
            self._answer(message, payload[:ACCESS])
        try:
            hold = self._attempt(message, self._regions.write, region, offset, data)
        except Refused:
            if early:
                return
            raise
        if region == CONFIG and self._function.bus_master:
            self._dma.look_private()
        if hold is None or hold.done:
            if not early:
                self._answer(message, payload[:ACCESS])
        else:
            self._complete_later(hold, message, b"" if early else payload[:ACCESS])

    def _complete_later(self, hold: Hold, message: Message, answer: bytes) -> None:
        self._busy = True

        def completed() -> None:
            if self._closed:
                return
            self._busy = False
            if answer:
                self._answer(message, answer)
            self._link.resumed()

        hold.then(completed)

    def region_write_multi(self, message: Message) -> None:
        """REGION_WRITE_MULTI: small writes, one after the other."""
        count = _unpack(WriteMulti, message, exact=False).count
        if len(message.payload) != WriteMulti.size + count * SmallWrite.size:
            raise PeerError(f"REGION_WRITE_MULTI of {count} with {len(message.payload)} bytes")
        for n in range(count):
            write = SmallWrite.unpack(message.payload, WriteMulti.size + n * SmallWrite.size)
            if not 0 < write.count <= 8:
                raise PeerError(f"REGION_WRITE_MULTI with a write of {write.count} bytes")
            data = write.data.to_bytes(8, "little")[: write.count]
            self._attempt(message, self._regions.write, write.region, write.offset, data)
        self._answer(message, WriteMulti(count).pack())

    def _attempt(self, message: Message, call: Callable[..., Any], *arguments: Any) -> Any:
        """An exception is a bug of ours: it fails one command, and the device goes on."""
        try:
            return call(*arguments)
        except Refused:
            raise
        except Exception as error:
            self._log.error("vfio-user: unexpected error in %s", message.name, exc_info=error)
            raise Refused(errno.EIO, f"{message.name} has failed") from None

    # -- migration -------------------------------------------------------------------------------

    def device_feature(self, message: Message) -> None:
        """DEVICE_FEATURE."""
        feature = _unpack(Feature, message, exact=False)
        flags, data = FeatureFlags(feature.flags), message.payload[Feature.size :]
        get, put = bool(flags.GET), bool(flags.SET)
        known = self._function.migratable and flags.INDEX in (_CAN_SET if put else _CAN_GET)
        if not known:
            raise Refused(errno.ENOTTY, f"DEVICE_FEATURE {flags.INDEX}")
        if flags.PROBE:
            self._answer(message, message.payload)
            return
        if get == put:
            raise Refused(errno.EINVAL, "DEVICE_FEATURE that both gets and sets, or neither")
        if put:
            if len(data) != DeviceState.size:
                raise PeerError(f"DEVICE_FEATURE with {len(data)} bytes of data")
            wanted = DeviceState.unpack(data).state
            self._attempt(message, self._migration.go, wanted)
            self._answer(message, message.payload)
            return
        if flags.INDEX == FeatureIndex.MIGRATION:
            answer = MigrationSupport(STOP_COPY_SUPPORTED).pack()
        else:
            answer = DeviceState(self._migration.state, 0).pack()
        self._answer(message, Feature(Feature.size + len(answer), feature.flags).pack() + answer)

    def mig_data_read(self, message: Message) -> None:
        """MIG_DATA_READ."""
        asked = _unpack(MigrationData, message)
        data = self._migration.read(asked.size_)
        size = len(data)
        self._answer(message, MigrationData(MigrationData.size + size, size).pack() + data)

    def mig_data_write(self, message: Message) -> None:
        """MIG_DATA_WRITE."""
        told = _unpack(MigrationData, message, exact=False)
        data = message.payload[MigrationData.size :]
        if told.size_ != len(data):
            raise PeerError(f"MIG_DATA_WRITE of {told.size_} bytes with {len(data)}")
        self._migration.write(data)
        self._answer(message)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """The client is gone: nothing of its is touched any more, but by system calls under way.

        The function is reset: what it was doing, it did for that client's memory.
        """
        self._closed = True
        self._busy = False
        self._interrupts.close()
        self._dma.close()
        self._memory.forget()
        try:
            self._function.reset()
            self._function.unplugged()
        except Exception as error:  # or nobody could come any more
            self._log.error("vfio-user: unexpected error in a reset", exc_info=error)

    def forget(self) -> None:
        """Nothing more to let go of: system calls under way hold what they need."""


def _unpack(kind: type[S], message: Message, *, exact: bool = True) -> S:
    """The struct a message begins with; unless `exact` more may follow."""
    size = len(message.payload)
    if size < kind.size or (exact and size != kind.size):
        raise PeerError(f"{message.name} with {size} bytes, expected {kind.size}")
    return kind.unpack(message.payload)


def _empty(message: Message) -> None:
    if message.payload:
        raise PeerError(f"{message.name} with {len(message.payload)} bytes")


def _check_room(message: Message, room: int, needed: int) -> None:
    """Whether the client has room for the least that is answered ("Message sizes")."""
    if room < needed:
        raise Refused(errno.EINVAL, f"{message.name} with room for {room} bytes of {needed}")


# A handler bears the name of its command.
_HANDLERS: Final[dict[int, Callable[[Session, Message], None]]] = {
    command: handler
    for command in Command
    if (handler := getattr(Session, command.name.lower(), None)) is not None
}

_CAN_GET: Final = frozenset({FeatureIndex.MIGRATION, FeatureIndex.MIG_DEVICE_STATE})
_CAN_SET: Final = frozenset({FeatureIndex.MIG_DEVICE_STATE})
_TAKES_FDS: Final = frozenset({Command.DMA_MAP, Command.DEVICE_SET_IRQS})
