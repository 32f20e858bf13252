"""The PCI transport, virtio 1.2 section 4.1: a device as a PCI function, without the legacy interface.

::

    bus.plug(5, 0, VirtioPci(BlockDevice(disk, engine), board.memory))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from drivebay.controllers.virtio.pci_structures import Notifications, PciAccess, Structure
from drivebay.controllers.virtio.registers import (
    NO_VECTOR,
    PCI_COMMON_SIZE,
    PCI_CONFIG,
    PCI_ISR,
    PCI_NOTIFY,
    PciRegisters,
    PciStructure,
)
from drivebay.controllers.virtio.transport import RegisterTransport
from drivebay.platform.interrupts import Line, Message
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Bar, BarKind, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import add_capabilities
from drivebay.platform.pci_messages import MsixCapability, MsixRegisters
from drivebay.platform.ports import Hold, PortRegion
from drivebay.platform.virtio import Device

__all__ = ["PciRegisterBlock", "VirtioPci", "identity_of"]

REGISTERS, MSIX, PORT = 0, 1, 2
VENDOR: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040
MASS_STORAGE: Final = 0x010000
SIZE: Final = 0x1000
ADDRESSES: Final = (0x20, 0x28, 0x30)
"""64-bit fields, which a driver may write as a whole."""


def identity_of(device: Device) -> PciIdentity:
    """Who a function with `device` says it is, section 4.1.2. The subsystem is QEMU's."""
    return PciIdentity(
        VENDOR,
        FIRST_DEVICE + device.device_id,
        MASS_STORAGE,
        revision=1,
        subsystem_vendor=VENDOR,
        subsystem=0x1100,
        interrupt_pin=1,
    )


class PciRegisterBlock(RegisterTransport):
    """The structures of section 4.1.4 in one block, an `MmioRegion`. `messages` are sent if they
    are enabled; `master` says whether the function may reach memory.
    """

    name = "virtio-pci"
    registers = PciRegisters
    config_at = PCI_CONFIG
    size = SIZE

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        line: Line,
        messages: MsixCapability,
        master: Callable[[], bool],
    ) -> None:
        self._messages, self._master = messages, master
        super().__init__(device, memory, line)

    def _clear(self) -> None:
        super()._clear()
        self._config_vector = NO_VECTOR
        self._vectors = [NO_VECTOR] * len(self._setups)

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Write a register, or bytes of the configuration space."""
        if width == 8 and offset in ADDRESSES:
            super().mmio_write(offset, 4, value)
            super().mmio_write(offset + 4, 4, value >> 32)
        else:
            super().mmio_write(offset, width, value)

    # -- the common configuration, in MMIO's words -----------------------------------------------

    read_device_feature = RegisterTransport.read_DeviceFeatures
    write_device_feature_select = RegisterTransport.write_DeviceFeaturesSel
    write_driver_feature = RegisterTransport.write_DriverFeatures
    write_driver_feature_select = RegisterTransport.write_DriverFeaturesSel
    read_device_status = RegisterTransport.read_Status
    write_device_status = RegisterTransport.write_Status
    write_queue_select = RegisterTransport.write_QueueSel
    write_queue_size = RegisterTransport.write_QueueNum
    read_queue_enable = RegisterTransport.read_QueueReady
    write_queue_desc_low = RegisterTransport.write_QueueDescLow
    write_queue_desc_high = RegisterTransport.write_QueueDescHigh
    write_queue_driver_low = RegisterTransport.write_QueueDriverLow
    write_queue_driver_high = RegisterTransport.write_QueueDriverHigh
    write_queue_device_low = RegisterTransport.write_QueueDeviceLow
    write_queue_device_high = RegisterTransport.write_QueueDeviceHigh
    write_queue_notify = RegisterTransport.write_QueueNotify

    # -- what MMIO has no word for ---------------------------------------------------------------
