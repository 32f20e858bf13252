"""One front end's session: what it has set up, and the device's queues that follow from it.

Sans-IO: messages come in by `handle`, answers go out by the `send` it was given. A message may end
only when the disk has: while `busy`, the next one must wait.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from drivebay.hosts.vhost_user import payloads
from drivebay.hosts.vhost_user.codec import Message, PeerError, backend_request, reply
from drivebay.hosts.vhost_user.inflight import InflightArea
from drivebay.hosts.vhost_user.memory import MAX_SLOTS, SharedMemory
from drivebay.hosts.vhost_user.messages import (
    MAX_CONFIG,
    NO_FD,
    PROTOCOL_FEATURES,
    RING_PACKED,
    BackendRequest,
    ConfigHeader,
    Number,
    ProtocolFeature,
    Request,
    VringAddress,
    VringState,
)
from drivebay.hosts.vhost_user.vring import Vring
from drivebay.platform.engine import Engine, Lookout
from drivebay.platform.logs import RationedLog
from drivebay.platform.onlooker import Onlooker
from drivebay.platform.virtio import Device, DeviceStatus, QueueSetup, RingAddresses, RingError
from drivebay.wire import Struct

__all__ = ["Send", "Session"]

log = logging.getLogger(__name__)

OFFERED: Final = sum(
    1 << feature
    for feature in (
        ProtocolFeature.MQ,
        ProtocolFeature.REPLY_ACK,
        ProtocolFeature.BACKEND_REQ,
        ProtocolFeature.CONFIG,
        ProtocolFeature.INFLIGHT_SHMFD,
        ProtocolFeature.RESET_DEVICE,
        ProtocolFeature.CONFIGURE_MEM_SLOTS,
        ProtocolFeature.STATUS,
    )
)

DONE: Final = 0  # what REPLY_ACK says; a failure closes the connection


class Send(Protocol):
    """Sends bytes, and perhaps a descriptor with them, to the front end. Never raises, whatever has
    become of that: answers are sent from the midst of a device's work too.
    """

    def __call__(self, data: bytes, fd: int | None = None) -> None:
        """Send them."""


class Session:
    """A front end's connection to `device`.

    `resumed` is called each time a message that had to wait has ended. What the front end can make
    us say goes to `peer_log`.
    """

    def __init__(
        self,
        device: Device,
        engine: Engine,
        send: Send,
        resumed: Callable[[], None],
        peer_log: RationedLog | None = None,
        *,
        config: bool = True,
    ) -> None:
        self._peer_log = peer_log or RationedLog(log)
        self._device, self._engine, self._send, self._resumed = device, engine, send, resumed
        self._offered = OFFERED if config else OFFERED & ~(1 << ProtocolFeature.CONFIG)
        self._memory = SharedMemory()
        self._vrings = [Vring(index, self._peer_log) for index in range(len(device.queue_sizes))]
        self._features = self._protocol_features = self._status = 0
        self._inflight: InflightArea | None = None
        self._backend_channel: socket.socket | None = None
        self._waiting = 0  # rings that are being stopped
        self._unfinished: Callable[[], None] | None = None  # what is left to do when they have
        self.messages = 0
        device.attach(self)

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at interrupts; there are no registers."""
        for vring in self._vrings:
            vring.onlooker = onlooker

    @property
    def busy(self) -> bool:
        """Whether the last message still waits for the disk."""
        return self._waiting > 0

    def _agreed(self, feature: ProtocolFeature) -> bool:
        return bool(self._protocol_features >> feature & 1)

    # -- messages --------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Do what a message asks; its descriptors are closed then, a handler keeps duplicates.

        Raises `PeerError` if it is against the protocol, and `OSError` if a descriptor is no good.
        """
        self.messages += 1
        log.debug("vhost-user: %s %d bytes", message.name, len(message.payload))
        try:
            handler = _HANDLERS.get(message.request)
            if handler is None:
                raise PeerError(f"{message.name} is not supported")
            if message.fds and message.request not in _TAKES_FDS:
                raise PeerError(f"{message.name} with {len(message.fds)} descriptors")
            handler(self, message)
        finally:
            message.close_fds()
        self._when_idle(partial(self._acknowledge, message))

    def _when_idle(self, finish: Callable[[], None]) -> None:
        if self.busy:
            self._unfinished = finish
        else:
            finish()

    def _acknowledge(self, message: Message) -> None:
        wanted = message.flags.NEED_REPLY and message.request not in _ANSWERED
        if wanted and self._agreed(ProtocolFeature.REPLY_ACK):
            self._answer(message, Number(DONE))

    def _answer(self, message: Message, payload: Struct, fd: int | None = None) -> None:
        self._send(reply(message, payload.pack()), fd)

    def get_features(self, message: Message) -> None:
        """GET_FEATURES."""
        self._answer(message, Number(self._device.features | 1 << PROTOCOL_FEATURES))

    def set_features(self, message: Message) -> None:
        """SET_FEATURES."""
        features = payloads.number(message)
        wanted = features & ~(1 << PROTOCOL_FEATURES)
        if wanted & ~self._device.features:
            raise PeerError(f"features {wanted:#x} were not offered")
        if features != self._features and any(vring.running for vring in self._vrings):
            raise PeerError(f"features {wanted:#x} for rings that run")
        self._features = features
        self._device.set_features(wanted)

    def get_protocol_features(self, message: Message) -> None:
        """GET_PROTOCOL_FEATURES."""
        self._answer(message, Number(self._offered))

    def set_protocol_features(self, message: Message) -> None:
        """SET_PROTOCOL_FEATURES."""
        features = payloads.number(message)
        if features & ~self._offered:
            raise PeerError(f"protocol features {features:#x} were not offered")
        self._protocol_features = features

    def set_owner(self, message: Message) -> None:
        """SET_OWNER: nothing to do."""

    def get_queue_num(self, message: Message) -> None:
        """GET_QUEUE_NUM."""
        self._answer(message, Number(len(self._vrings)))

    # -- memory ----------------------------------------------------------------------------------

    def set_mem_table(self, message: Message) -> None:
        """SET_MEM_TABLE."""
        self._memory.replace(payloads.regions(message), message.fds)
        self._device.remap()

    def get_max_mem_slots(self, message: Message) -> None:
        """GET_MAX_MEM_SLOTS."""
        self._answer(message, Number(MAX_SLOTS))

    def add_mem_reg(self, message: Message) -> None:
        """ADD_MEM_REG."""
        self._memory.add(payloads.region(message), payloads.only_fd(message))
        self._device.remap()

    def rem_mem_reg(self, message: Message) -> None:
        """REM_MEM_REG. Some front ends send the descriptor again."""
        self._memory.remove(payloads.region(message))
        self._device.remap()

    # -- rings -----------------------------------------------------------------------------------

    def _vring(self, index: int) -> Vring:
        if index >= len(self._vrings):
            raise PeerError(f"ring {index} of a device with {len(self._vrings)}")
        return self._vrings[index]

    def _resting(self, index: int, what: str) -> Vring:
        vring = self._vring(index)
        if vring.running:
            raise PeerError(f"{what} of ring {index} while it runs")
        return vring

    def set_vring_num(self, message: Message) -> None:
        """SET_VRING_NUM."""
        state = payloads.unpack(VringState, message)
        vring = self._resting(state.index, message.name)
        if not 0 < state.value <= 32768:
            raise PeerError(f"ring {state.index} of {state.value} entries")
        vring.size = state.value

    def set_vring_base(self, message: Message) -> None:
        """SET_VRING_BASE."""
        state = payloads.unpack(VringState, message)
        self._resting(state.index, message.name).position = state.value

    def set_vring_addr(self, message: Message) -> None:
        """SET_VRING_ADDR."""
        address = payloads.unpack(VringAddress, message)
        self._resting(address.index, message.name).address = address

    def set_vring_kick(self, message: Message) -> None:
        """SET_VRING_KICK: the ring may run."""
        vring, fd = self._ring_fd(message)
        if fd < 0:
            raise PeerError(f"ring {vring.index} wants to be polled, which is not supported")
        if vring.running:
            self._engine.unwatch(vring.kick)
        vring.set_kick(fd)
        if vring.running:
            self._watch(vring)
        self._start(vring)

    def set_vring_call(self, message: Message) -> None:
        """SET_VRING_CALL."""
        vring, fd = self._ring_fd(message)
        vring.set_call(fd)
        if vring.running:
            vring.signal()  # what was to be said may have gone to the old one

    def set_vring_err(self, message: Message) -> None:
        """SET_VRING_ERR."""
        vring, fd = self._ring_fd(message)
        vring.set_err(fd)

    def _ring_fd(self, message: Message) -> tuple[Vring, int]:
        """The ring a descriptor is for, and a duplicate of that, or -1 where none comes."""
        value = payloads.number(message)
        vring = self._vring(value & 0xFF)
        if not value & NO_FD:
            return vring, os.dup(payloads.only_fd(message))
        if message.fds:
            raise PeerError(f"{message.name} with a descriptor, and without")
        return vring, -1

    def set_vring_enable(self, message: Message) -> None:
        """SET_VRING_ENABLE."""
        state = payloads.unpack(VringState, message)
        vring = self._vring(state.index)
        vring.enabled = bool(state.value)
        if vring.enabled:
            self._start(vring)
        elif vring.running:
            self._stop(vring, cancel=False)

    def _start(self, vring: Vring) -> None:
        """Run a ring when all is said that must be: a kick descriptor, and that it is enabled."""
        enabled = vring.enabled or not self._features >> PROTOCOL_FEATURES & 1
        if vring.running or vring.kick < 0 or not enabled:
            return
        setup = self._setup(vring)
        if self._inflight is not None and (state := self._inflight.driver_state) is not None:
            self._device.driver_state = state
        vring.running = True
        try:
            self._device.start_queue(vring.index, setup)
        except RingError as error:
            vring.running = False
            self._peer_log.warning("vhost-user: ring %d: %s", vring.index, error)
            self.needs_reset()
            return
        self._watch(vring)
        self._keep_driver_state()
        vring.signal()  # a server before us may have died between an answer and its interrupt

    def _setup(self, vring: Vring) -> QueueSetup:
        if vring.address is None or not vring.size:
            raise PeerError(f"ring {vring.index} is started before it is set up")
        address, guest = vring.address, self._memory.guest_address
        split = packed = None
        if self._inflight is not None:
            if self._packed:
                packed = self._inflight.packed(vring.index, vring.size)
            else:
                split = self._inflight.split(vring.index, vring.size)
        return QueueSetup(
            memory=self._memory.guest,
            size=vring.size,
            addresses=RingAddresses(
                guest(address.descriptors), guest(address.available), guest(address.used)
            ),
            signal=vring.signal,
            position=vring.position,
            tracker=split,
            packed_tracker=packed,
            linger=Lookout(self._engine),
        )

    @property
    def _packed(self) -> bool:
        return bool(self._features >> RING_PACKED & 1)

    def _watch(self, vring: Vring) -> None:
        """Kicks are counted by the eventfd, and never read: an edge for each is what we need."""
        if vring.kick >= 0:
            self._engine.watch(vring.kick, partial(self._device.kick, vring.index), edge=True)

    def get_vring_base(self, message: Message) -> None:
        """GET_VRING_BASE: stop the ring, and say where the next chain will be."""
        state = payloads.unpack(VringState, message)
        vring = self._vring(state.index)
        tell = partial(self._tell_base, vring, message)
        if vring.running:
            self._stop(vring, cancel=False, then=tell)
        else:
            tell()

    def _stop(self, vring: Vring, *, cancel: bool, then: Callable[[], None] | None = None) -> None:
        vring.running = False
        self._engine.unwatch(vring.kick)
        self._waiting += 1
        self._device.stop_queue(vring.index, partial(self._stopped, vring, then), cancel=cancel)

    def _stopped(self, vring: Vring, then: Callable[[], None] | None, position: int) -> None:
        vring.position = position
        if then is not None:
            then()
        self._waiting -= 1
        if not self.busy and self._unfinished is not None:
            self._engine.later(self._finish)

    def _finish(self) -> None:
        if self._unfinished is not None and not self.busy:  # `close` may have stopped more since
            finish, self._unfinished = self._unfinished, None
            finish()
            self._resumed()

    def _tell_base(self, vring: Vring, message: Message) -> None:
        vring.rest()
        self._answer(message, VringState(vring.index, vring.position or 0))

    # -- the device ------------------------------------------------------------------------------

    def get_config(self, message: Message) -> None:
        """GET_CONFIG: as many bytes as were asked for, zeroes behind the end, none as an error."""
        head = payloads.unpack(ConfigHeader, message, exact=False)
        if head.offset + head.length > MAX_CONFIG:
            self._send(reply(message, b""))
            return
        config = self._device.read_config()[head.offset : head.offset + head.length]
        self._send(reply(message, head.pack() + config.ljust(head.length, b"\0")))

    def set_config(self, message: Message) -> None:
        """SET_CONFIG: the device knows which fields can be written."""
        head = payloads.unpack(ConfigHeader, message, exact=False)
        data = message.payload[ConfigHeader.size :]
        if head.offset + head.length > MAX_CONFIG or len(data) != head.length:
            raise PeerError(f"configuration bytes {head.offset}+{head.length}")
        self._device.write_config(head.offset, data)
        self._keep_driver_state()

    def _keep_driver_state(self) -> None:
        """The front end does not say again what its driver has switched: the area remembers."""
        if self._inflight is not None:
            self._inflight.driver_state = self._device.driver_state

    def set_backend_req_fd(self, message: Message) -> None:
        """SET_BACKEND_REQ_FD: the way to tell the front end of a change."""
        fd = os.dup(payloads.only_fd(message))
        try:
            channel = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise PeerError(f"{message.name} with a descriptor that is no socket") from None
        self._close_backend_channel()
        self._backend_channel = channel

    def _close_backend_channel(self) -> None:
        if self._backend_channel is not None:
            self._backend_channel.close()
        self._backend_channel = None

    def get_inflight_fd(self, message: Message) -> None:
        """GET_INFLIGHT_FD: a fresh area, that the front end keeps for the next server."""
        asked = payloads.inflight(message)
        if not 0 < asked.num_queues <= len(self._vrings) or not 0 < asked.queue_size <= 32768:
            raise PeerError(f"in-flight area of {asked.num_queues} queues of {asked.queue_size}")
        fd, shape = InflightArea.create(asked.num_queues, asked.queue_size)
        try:
            self._send(reply(message, shape.pack().ljust(len(message.payload), b"\0")), fd)
        finally:
            os.close(fd)

    def set_inflight_fd(self, message: Message) -> None:
        """SET_INFLIGHT_FD."""
        if any(vring.running for vring in self._vrings):
            raise PeerError("an in-flight area for rings that run")
        self._inflight = InflightArea(payloads.only_fd(message), payloads.inflight(message))

    def set_status(self, message: Message) -> None:
        """SET_STATUS: zero is a reset."""
        self._status = payloads.number(message) & 0xFF
        if self._status == 0:
            self._reset()

    def get_status(self, message: Message) -> None:
        """GET_STATUS."""
        self._answer(message, Number(self._status))

    def reset_owner(self, message: Message) -> None:
        """RESET_OWNER: no longer used; what it meant to those who used it was to disable rings."""
        for vring in self._vrings:
            vring.enabled = False
            if vring.running:
                self._stop(vring, cancel=False)

    def reset_device(self, message: Message) -> None:
        """RESET_DEVICE."""
        self._status = 0
        for vring in self._vrings:
            vring.enabled = False
        self._reset()

    def _reset(self) -> None:
        """The driver has forgotten its requests, and so must whoever comes after us.

        What it had switched is kept: some front ends reset for no more than a pause.
        """
        for vring in self._vrings:
            forget = partial(self._forget_requests, vring)
            if vring.running:
                self._stop(vring, cancel=True, then=forget)
            else:
                forget()

    def _forget_requests(self, vring: Vring) -> None:
        vring.position = None
        if self._inflight is not None:
            self._inflight.wipe(vring.index, packed=self._packed)

    # -- what the device asks of its transport ---------------------------------------------------

    def config_changed(self) -> None:
        """The configuration space has new contents."""
        if self._backend_channel is None:
            return
        message = backend_request(BackendRequest.CONFIG_CHANGE_MSG)
        try:
            self._backend_channel.send(message, socket.MSG_DONTWAIT)
        except BlockingIOError:  # there is more than one such message that it has not read
            pass
        except OSError as error:
            self._peer_log.warning("vhost-user: it takes no configuration change: %s", error)
            self._close_backend_channel()

    def needs_reset(self) -> None:
        """The driver broke the rules of a ring."""
        self._status |= DeviceStatus.DEVICE_NEEDS_RESET
        for vring in self._vrings:
            vring.err.notify()

    def close(self) -> None:
        """The front end is gone. `busy` until nothing of its is in flight."""
        self._unfinished = None
        for vring in self._vrings:
            if vring.running:
                self._stop(vring, cancel=True)
            else:
                self._device.cancel_queue(vring.index)
        self._when_idle(lambda: None)
        for vring in self._vrings:
            vring.close()
        self._close_backend_channel()
        self._device.attach(None)

    def forget(self) -> None:
        """Let go of the front end's memory, now that nothing touches it any more."""
        self._memory.forget()
        self._inflight = None


# A handler bears the name of its request.
_HANDLERS: Final[dict[int, Callable[[Session, Message], None]]] = {
    request: handler
    for request in Request
    if (handler := getattr(Session, request.name.lower(), None)) is not None
}

_TAKES_FDS: Final = frozenset(
    {
        Request.SET_MEM_TABLE,
        Request.SET_VRING_KICK,
        Request.SET_VRING_CALL,
        Request.SET_VRING_ERR,
        Request.SET_BACKEND_REQ_FD,
        Request.SET_INFLIGHT_FD,
        Request.ADD_MEM_REG,
        Request.REM_MEM_REG,
    }
)

_ANSWERED: Final = frozenset(
    {
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.GET_VRING_BASE,
        Request.GET_CONFIG,
        Request.GET_INFLIGHT_FD,
        Request.GET_MAX_MEM_SLOTS,
        Request.GET_STATUS,
    }
)
"""Requests whose answer is their acknowledgement."""
