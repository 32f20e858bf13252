"""The MMIO transport, virtio 1.2 section 4.2: a device as a block of registers and a line."""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.registers import (
    MMIO_CONFIG,
    MMIO_MAGIC,
    MMIO_VERSION,
    MmioRegisters,
)
from drivebay.controllers.virtio.transport import RegisterTransport, half

__all__ = ["MMIO_SIZE", "MmioTransport"]

MMIO_SIZE: Final = 0x200
VENDOR_ID: Final = 0x1AF4


class MmioTransport(RegisterTransport):
    """Registers of `device`, whose rings are in `memory`, and its interrupt `line`.

    Map it where the guest expects it::

        space.map(0x10001000, MmioTransport(BlockDevice(disk, engine), memory, line))
    """

    name = "virtio-mmio"
    registers = MmioRegisters
    config_at = MMIO_CONFIG
    size = MMIO_SIZE

    def read_MagicValue(self) -> int:
        """The letters ``virt``."""
        return MMIO_MAGIC

    def read_Version(self) -> int:
        """2: not the legacy interface."""
        return MMIO_VERSION

    def read_DeviceID(self) -> int:
        """The kind of device."""
        return self._device.device_id

    def read_VendorID(self) -> int:
        """Ours, as far as Linux cares."""
        return VENDOR_ID

    def read_InterruptStatus(self) -> int:
        """Why the line is up."""
        return self._interrupts

    def write_InterruptACK(self, value: int) -> None:
        """The driver has seen these."""
        self._interrupts &= ~value
        self.drive_line()

    # -- what all transports have ----------------------------------------------------------------

    read_DeviceFeatures = RegisterTransport.offered
    write_DeviceFeaturesSel = RegisterTransport.select_offered
    write_DriverFeatures = RegisterTransport.choose
    write_DriverFeaturesSel = RegisterTransport.select_chosen
    write_QueueSel = RegisterTransport.select_queue
    read_QueueNumMax = RegisterTransport.largest_size
    write_QueueNum = RegisterTransport.choose_size
    read_QueueReady = RegisterTransport.queue_ready
    write_QueueReady = RegisterTransport.set_queue_ready
    write_QueueDescLow = half("descriptors", 0)[1]
    write_QueueDescHigh = half("descriptors", 32)[1]
    write_QueueDriverLow = half("driver", 0)[1]
    write_QueueDriverHigh = half("driver", 32)[1]
    write_QueueDeviceLow = half("device", 0)[1]
    write_QueueDeviceHigh = half("device", 32)[1]
    write_QueueNotify = RegisterTransport.notify
    read_ConfigGeneration = RegisterTransport.generation
    read_Status = RegisterTransport.status
    write_Status = RegisterTransport.set_status
