"""A guest on a VMBus with a StorVSP controller."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from drivebay.controllers.storvsp import StorVsp
from drivebay.controllers.storvsp.storvsp import SCSI
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.storvsc import StorVsc, VmbusDriver
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.vmbus_bus import VmBus
from drivebay.platform.vmbus_messages import OfferChannel
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.server import DeviceServer
from drivebay.scsi.target import Target

RAM_SIZE: Final = 16 << 20
ARENA: Final = 0x100000
INSTANCE: Final = uuid.UUID(int=0x5C51)


def quiet(unit: DeviceServer | None) -> DeviceServer:
    """A unit that has told its unit attentions."""
    assert unit is not None
    unit._attentions.clear()
    return unit


class Bench:
    """A controller with `disks` by LUN on a bus, and the guest's driver of the bus.

    `signals` lists the channels that the guest was interrupted for. Further arguments are
    `StorVsp`'s.
    """

    def __init__(
        self,
        disks: Mapping[int, Disk] | None = None,
        memory: GuestMemory | None = None,
        engine: Engine | None = None,
        **options: Any,
    ) -> None:
        self.engine = engine or Engine(workers=0)
        self.memory = memory or GuestMemory.of_size(RAM_SIZE)
        self.options = options
        self.target = Target(self.engine)
        for lun, disk in ({0: RamDisk(1 << 20)} if disks is None else disks).items():
            self.target.add(lun, ScsiDisk(disk))
        for lun in self.target.luns:
            quiet(self.target.unit(lun))
        self.signals: list[int] = []
        self.device = StorVsp(self.target, self.memory, self.engine, instance=INSTANCE, **options)
        self.bus = VmBus(self.memory, self._send, lambda channel, _: self.signals.append(channel))
        self.device.attach(self.bus)
        self.arena = Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        self.guest = VmbusDriver(self.bus.message, self.bus.signal, partial(self.engine.turn, 0))

    def _send(self, message: bytes) -> None:
        self.guest.receive(message)

    def offer(self) -> OfferChannel:
        """The guest connects, and finds the controller."""
        self.guest.connect()
        (offer,) = self.guest.find(SCSI)
        return offer

    def driver(self, **options: Any) -> StorVsc:
        """The guest's driver of the controller."""
        return StorVsc(self.guest, self.offer(), self.arena, **options)

    def settle(self) -> None:
        for _ in range(10):
            self.engine.turn(0)

    def wait(self, condition: Callable[[], object]) -> None:
        assert self.engine.run_until(lambda: bool(condition())), "it never happens"

    def replaced(self, disks: Mapping[int, Disk]) -> Bench:
        """Save it all, and go on with others on the same memory. The guest notices nothing."""
        saved = {"device": self.device.save(), "bus": self.bus.save()}
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(saved))
        other = Bench(disks, self.memory, self.engine, **self.options)
        other.device.restore(state["device"])
        other.bus.restore(state["bus"])
        other.guest, self.guest = self.guest, other.guest
        other.guest._post, other.guest.signal = other.bus.message, other.bus.signal
        return other
