"""What every driver of a virtio device does: it initialises the device (virtio 1.2 section 3.1),
offers chains in its rings, and takes back what has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final

from drivebay.controllers.virtio.registers import RingFeature
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import (
    Buffer,
    DriverRing,
    PackedDriverRing,
    SplitDriverRing,
)
from drivebay.platform.virtio import DeviceStatus

__all__ = ["ALL_FEATURES", "DeviceError", "Offered", "RegisterDriver", "RingDriver"]

ALL_FEATURES: Final = ~0


class DeviceError(Exception):
    """The device is not what it should be, or a request did not end well."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what if status is None else f"{what}: status {status}")
        self.status = status


class Offered:
    """A chain that the device has; in the end it says how many bytes were written."""

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: int | None = None


class RingDriver:
    """Chains over rings that a transport has set up.

    `poll` is called while one is awaited: it lets the device run.
    """

    def __init__(self, arena: Arena, poll: Callable[[], object]) -> None:
        self.arena, self.memory, self._poll = arena, arena.memory, poll
        self.features = 0
        self._rings: list[DriverRing] = []
        self._pending: dict[tuple[int, int], Offered] = {}

    def notify(self, queue: int) -> None:
        """Tell the device that there is work in a queue."""
        raise NotImplementedError

    def acknowledge(self) -> None:
        """Take note of an interrupt."""

    def has(self, feature: IntEnum) -> bool:
        """Whether a feature was negotiated."""
        return bool(self.features >> feature & 1)

    def make_ring(self, size: int) -> DriverRing:
        """A ring of the negotiated kind, in the arena."""
        kind = PackedDriverRing if self.has(RingFeature.RING_PACKED) else SplitDriverRing
        return kind(self.arena, size, event_idx=self.has(RingFeature.EVENT_IDX))

    def ring(self, queue: int = 0) -> DriverRing:
        """The ring of a queue."""
        return self._rings[queue]

    def offer(
        self,
        queue: int,
        chain: Sequence[Buffer],
        offered: Offered,
        *,
        indirect: int | None = None,
        kick: bool = True,
    ) -> None:
        """Give a chain to the device, its descriptors in a table at `indirect` if that is given."""
        token = self._rings[queue].add(chain, indirect=indirect)
        self._pending[queue, token] = offered
        if kick:
            self.kick(queue)

    def kick(self, queue: int = 0) -> None:
        """Tell the device of what was submitted, if it wants to know."""
        if self._rings[queue].kick_wanted():
            self.notify(queue)

    def collect(self) -> int:
        """Take back what has ended; how many."""
        self.acknowledge()
        count = 0
        for queue, ring in enumerate(self._rings):
            for token, written in ring.take():
                self._pending.pop((queue, token)).written = written
                count += 1
            ring.want_interrupt()
        return count

    def finish(self, offered: Offered, turns: int = 100_000) -> int:
        """Wait for a chain; the bytes written. Raises `DeviceError` if it never ends."""
        for _ in range(turns):
            self.collect()
            if offered.written is not None:
                return offered.written
            self._poll()
        raise DeviceError("a request does not end")


class RegisterDriver(RingDriver):
    """A driver of a device behind registers, by whichever transport; they go by MMIO's names.

    Raises `DeviceError` if the device does not do as it should.
    """

    def queues_of_device(self) -> int:
        """How many there are, by the configuration space."""
        raise NotImplementedError

    def get(self, register: str) -> int:
        """Read a register by name."""
        raise NotImplementedError

    def set(self, register: str, value: int) -> None:
        """Write a register by name."""
        raise NotImplementedError

    def _read_config(self, offset: int) -> int:
        """Four bytes of the configuration space."""
        raise NotImplementedError

    def write_config(self, offset: int, value: int, width: int = 1) -> None:
        """Write `width` bytes of the configuration space."""
        raise NotImplementedError

    def _prepare(self, queues: int) -> None:
        """Look at so many queues before they are set up, where there is anything to see."""

    def notify(self, queue: int) -> None:
        """Tell the device that there is work in a queue."""
        self.set("QueueNotify", queue)

    @property
    def status(self) -> DeviceStatus:
        """The device status field."""
        return DeviceStatus(self.get("Status"))

    def read_config(self, size: int) -> bytes:
        """The configuration space, read until its generation holds still (section 2.5.1)."""
        while True:
            generation = self.get("ConfigGeneration")
            words = [self._read_config(offset) for offset in range(0, size, 4)]
            if generation == self.get("ConfigGeneration"):
                return b"".join(word.to_bytes(4, "little") for word in words)

    # -- initialisation (section 3.1.1) ----------------------------------------------------------

    def _initialise(self, wanted: int, queue_size: int | None) -> None:
        self.reset()
        self._add_status(DeviceStatus.ACKNOWLEDGE)
        self._add_status(DeviceStatus.DRIVER)
        self.features = self._offered() & wanted
        for word in (0, 1):
            self.set("DriverFeaturesSel", word)
            self.set("DriverFeatures", self.features >> 32 * word & 0xFFFFFFFF)
        self._add_status(DeviceStatus.FEATURES_OK)
        if not self.status.FEATURES_OK:
            raise DeviceError("the device refuses the features")
        queues = self.queues_of_device()
        self._prepare(queues)
        for index in range(queues):
            self._rings.append(self._set_up_queue(index, queue_size))
        self._add_status(DeviceStatus.DRIVER_OK)

    def _offered(self) -> int:
        offered = 0
        for word in (0, 1):
            self.set("DeviceFeaturesSel", word)
            offered |= self.get("DeviceFeatures") << 32 * word
        return offered

    def _set_up_queue(self, index: int, size: int | None) -> DriverRing:
        self.set("QueueSel", index)
        size = size or self.get("QueueNumMax")
        self.set("QueueNum", size)
        ring = self.make_ring(size)
        for area, address in zip(("Desc", "Driver", "Device"), ring.addresses, strict=True):
            self.set(f"Queue{area}Low", address & 0xFFFFFFFF)
            self.set(f"Queue{area}High", address >> 32)
        self.set("QueueReady", 1)
        return ring

    def _add_status(self, bit: int) -> None:
        self.set("Status", self.get("Status") | bit)

    def reset(self, turns: int = 1000) -> None:
        """Reset the device and wait until it says so (section 2.4)."""
        self.set("Status", 0)
        for _ in range(turns):
            if self.get("Status") == 0:
                return
            self._poll()
        raise DeviceError("the device does not reset")
