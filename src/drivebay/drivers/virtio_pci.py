"""How a driver of a virtio device finds its registers over PCI (virtio 1.2 section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from drivebay.controllers.virtio.registers import (
    NO_VECTOR,
    PciCapabilityRegisters,
    PciNotifyRegisters,
    PciRegisters,
    PciStructure,
)
from drivebay.drivers.arena import Arena
from drivebay.drivers.pci import NUMBER_OF_BARS, Mmio, PciAddress, PciConfig, Ports
from drivebay.drivers.virtio_driver import ALL_FEATURES, DeviceError, RegisterDriver
from drivebay.platform.pci import BarKind, Header
from drivebay.platform.pci_capabilities import CapabilityHeader, CapabilityId
from drivebay.platform.pci_messages import MsixControl, MsixPlace, MsixRegisters
from drivebay.wire import At

__all__ = ["PciDriver"]

NAMES: Final = {
    "DeviceFeaturesSel": "device_feature_select",
    "DeviceFeatures": "device_feature",
    "DriverFeaturesSel": "driver_feature_select",
    "DriverFeatures": "driver_feature",
    "Status": "device_status",
    "ConfigGeneration": "config_generation",
    "QueueSel": "queue_select",
    "QueueNumMax": "queue_size",
    "QueueNum": "queue_size",
    "QueueReady": "queue_enable",
    "QueueDescLow": "queue_desc_low",
    "QueueDescHigh": "queue_desc_high",
    "QueueDriverLow": "queue_driver_low",
    "QueueDriverHigh": "queue_driver_high",
    "QueueDeviceLow": "queue_device_low",
    "QueueDeviceHigh": "queue_device_high",
    "InterruptStatus": "ISR_status",
}
"""What PCI calls MMIO's registers."""

NEEDED: Final = (
    PciStructure.COMMON_CFG,
    PciStructure.NOTIFY_CFG,
    PciStructure.ISR_CFG,
    PciStructure.DEVICE_CFG,
)

Message = tuple[int, int]
"""Address and data."""


class _Place(NamedTuple):
    """Where a structure is: in ports or in memory."""

    port: bool
    address: int


class PciDriver(RegisterDriver):
    """The function `at`, whose BARs firmware has put somewhere (`PciConfig.place`), with its rings
    and buffers in `arena`.

    With `messages` it interrupts by MSI-X: the first is for the configuration, the others are for
    the queues in turn. Raises `DeviceError` if there is no virtio device, or it does not do as it
    should.
    """

    def __init__(
        self,
        ports: Ports,
        mmio: Mmio,
        at: PciAddress,
        arena: Arena,
        *,
        poll: Callable[[], object] = lambda: None,
        features: int = ALL_FEATURES,
        queue_size: int | None = None,
        messages: Sequence[Message] = (),
    ) -> None:
        super().__init__(arena, poll)
        self._ports, self._mmio, self._at = ports, mmio, at
        self._config, self._messages = PciConfig(ports), messages
        self._places: dict[int, _Place] = {}
        self._multiplier = self._msix = 0
        self._doorbells: list[int] = []
        self._find()
        if messages:
            self._enable_messages()
        self._initialise(features, queue_size)

    def _find(self) -> None:
        """The first structure of each kind is what the device prefers (section 4.1.4)."""
        read, at = self._config.read, self._at
        offset = read(at, Header.CapabilitiesPointer.offset, 1)
        while offset:
            kind = read(at, offset + CapabilityHeader.ID.offset, 1)
            if kind == CapabilityId.MSIX:
                self._msix = offset
            elif kind == CapabilityId.VENDOR_SPECIFIC:
                self._note(offset)
            offset = read(at, offset + CapabilityHeader.Next.offset, 1)
        missing = [each.name for each in NEEDED if each not in self._places]
        if missing:
            raise DeviceError(f"no virtio device at {at}: no {', '.join(missing)}")

    def _note(self, capability: int) -> None:
        def read(register: At) -> int:
            return self._config.read(self._at, capability + register.offset, register.type.size)

        structure, bar = read(PciCapabilityRegisters.cfg_type), read(PciCapabilityRegisters.bar)
        if structure in self._places or structure not in NEEDED or bar >= NUMBER_OF_BARS:
            return
        port = bool(self._config.read(self._at, Header.BAR0.offset + 4 * bar, 4) & BarKind.IO)
        start = self._config.address(self._at, bar) + read(PciCapabilityRegisters.offset)
        self._places[structure] = _Place(port, start)
        if structure == PciStructure.NOTIFY_CFG:
            self._multiplier = read(PciNotifyRegisters.notify_off_multiplier)

    # -- registers -------------------------------------------------------------------------------

    def get(self, register: str) -> int:
        """Read a register by its name here or MMIO's."""
        at = PciRegisters.registers[NAMES.get(register, register)]
        if at is PciRegisters.ISR_status:
            return self._read(PciStructure.ISR_CFG, 0, at.type.size)
        return self._read(PciStructure.COMMON_CFG, at.offset, at.type.size)

    def set(self, register: str, value: int) -> None:
        """Write a register by its name here or MMIO's."""
        at = PciRegisters.registers[NAMES.get(register, register)]
        self._write(PciStructure.COMMON_CFG, at.offset, at.type.size, value)

    def _read_config(self, offset: int) -> int:
        return self._read(PciStructure.DEVICE_CFG, offset, 4)

    def write_config(self, offset: int, value: int, width: int = 1) -> None:
        """Write `width` bytes of the configuration space."""
        self._write(PciStructure.DEVICE_CFG, offset, width, value)

    def notify(self, queue: int) -> None:
        """Tell the device that there is work in a queue."""
        self._write(PciStructure.NOTIFY_CFG, self._doorbells[queue], 2, queue)

    def _read(self, structure: PciStructure, offset: int, width: int) -> int:
        place = self._places[structure]
        space = self._ports if place.port else self._mmio
        return space.read(place.address + offset, width)

    def _write(self, structure: PciStructure, offset: int, width: int, value: int) -> None:
        place = self._places[structure]
        space = self._ports if place.port else self._mmio
        space.write(place.address + offset, width, value)

    # -- interrupts ------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Take note of an interrupt; reading tells the device. Messages need none."""
        if not self._messages:
            self.get("ISR_status")

    def _enable_messages(self) -> None:
        """The table of MSI-X, and its switch (PCI 3.0 section 6.8.2)."""
        if not self._msix:
            raise DeviceError(f"no MSI-X at {self._at}")
        config, at = self._config, self._at
        place = MsixPlace(config.read(at, self._msix + MsixRegisters.Table.offset, 4))
        table = config.address(at, place.BIR) + (place & MsixPlace.Offset)
        for vector, (address, data) in enumerate(self._messages):
            for n, word in enumerate((address & 0xFFFFFFFF, address >> 32, data, 0)):
                self._mmio.write(table + 16 * vector + 4 * n, 4, word)
        control = self._msix + MsixRegisters.Control.offset
        enabled = config.read(at, control, 2) | MsixControl.Enable
        config.write(at, control, 2, enabled)

    def _prepare(self, queues: int) -> None:
        """Where each queue is notified, and which vector it interrupts by."""
        self._doorbells = []
        if self._messages:
            self._give_vector("config_msix_vector", 0)
        for queue in range(queues):
            self.set("queue_select", queue)
            self._doorbells.append(self.get("queue_notify_off") * self._multiplier)
            if self._messages:
                others = max(len(self._messages) - 1, 1)
                self._give_vector(
                    "queue_msix_vector", len(self._messages) - others + queue % others
                )

    def _give_vector(self, register: str, vector: int) -> None:
        self.set(register, vector)
        if self.get(register) == NO_VECTOR:
            raise DeviceError(f"the device has no vector {vector}")
