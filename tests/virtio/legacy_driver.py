"""A driver from before virtio 1.0: page numbers, no FEATURES_OK (virtio 1.2 section 4.2.4)."""

from __future__ import annotations

from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import VirtioBlk
from drivebay.drivers.virtio_ring import DriverRing
from drivebay.platform.virtio import DeviceStatus

from .bench import EVENT_IDX

PAGE = 4096
LEGACY_REGISTERS = {"GuestPageSize": 0x028, "QueueAlign": 0x03C, "QueuePFN": 0x040}


class Pages(Arena):
    """An arena in which a split ring comes out as the legacy layout has it."""

    def take(self, size: int, align: int = 16) -> int:
        return super().take(size, 2 if align == 2 else PAGE)


class LegacyVirtioBlk(VirtioBlk):
    """With `features` of the low 32 bits only. `early`: it works before it says DRIVER_OK."""

    early = False

    def set(self, register: str, value: int) -> None:
        if register in LEGACY_REGISTERS:
            self._space.write(self._base + LEGACY_REGISTERS[register], 4, value)
        else:
            super().set(register, value)

    def get(self, register: str) -> int:
        if register in LEGACY_REGISTERS:
            return self._space.read(self._base + LEGACY_REGISTERS[register], 4)
        return super().get(register)

    def _find(self) -> None:
        """Whatever its version is."""

    def _initialise(self, wanted: int, queue_size: int | None) -> None:
        self.reset()
        self._add_status(DeviceStatus.ACKNOWLEDGE)
        self._add_status(DeviceStatus.DRIVER)
        self.set("GuestPageSize", PAGE)
        self.set("DeviceFeaturesSel", 0)
        self.features = self.get("DeviceFeatures") & wanted & 0xFFFFFFFF
        self.set("DriverFeaturesSel", 0)
        self.set("DriverFeatures", self.features)
        self._rings.append(self._set_up_queue(0, queue_size))
        if not self.early:
            self._add_status(DeviceStatus.DRIVER_OK)

    def _set_up_queue(self, index: int, size: int | None) -> DriverRing:
        self.set("QueueSel", index)
        assert self.get("QueuePFN") == 0
        size = size or self.get("QueueNumMax")
        self.set("QueueNum", size)
        self.set("QueueAlign", PAGE)
        ring = self.make_ring(size)
        self.set("QueuePFN", ring.addresses[0] // PAGE)
        return ring


class EarlyVirtioBlk(LegacyVirtioBlk):
    """Works before DRIVER_OK, without the event index."""

    early = True

    def _initialise(self, wanted: int, queue_size: int | None) -> None:
        super()._initialise(wanted & ~EVENT_IDX, queue_size)
