"""The capabilities by which a driver finds a PCI device's registers, virtio 1.2 section 4.1.4."""

from __future__ import annotations

from typing import ClassVar, Final

from drivebay.controllers.virtio.registers import (
    PciAccessRegisters,
    PciCapabilityRegisters,
    PciNotifyRegisters,
    PciStructure,
)
from drivebay.platform.pci_capabilities import Capability, CapabilityId
from drivebay.platform.ports import PortRegion
from drivebay.wire import RegisterMap

__all__ = ["Notifications", "PciAccess", "Structure"]

WIDTHS: Final = (1, 2, 4)


class Structure(Capability):
    """A structure of `length` bytes at `start` of BAR `bar`."""

    id = CapabilityId.VENDOR_SPECIFIC
    registers: ClassVar[type[RegisterMap]] = PciCapabilityRegisters
    size = 16

    def __init__(
        self, structure: PciStructure, bar: int = 0, start: int = 0, length: int = 0
    ) -> None:
        super().__init__()
        self._structure, self._bar, self._start, self._length = structure, bar, start, length

    def describe(self) -> None:
        """Where it is."""
        self.declare(PciCapabilityRegisters.cap_len, self.size)
        self.declare(PciCapabilityRegisters.cfg_type, self._structure)
        self.declare(PciCapabilityRegisters.bar, self._bar)
        self.declare(PciCapabilityRegisters.offset, self._start)
        self.declare(PciCapabilityRegisters.length, self._length)


class Notifications(Structure):
    """Where notifications go: all to one place, as each bears the number of its queue."""

    registers = PciNotifyRegisters
    size = 20

    def __init__(self, bar: int, start: int) -> None:
        super().__init__(PciStructure.NOTIFY_CFG, bar, start, 2)

    def describe(self) -> None:
        """Where they go."""
        super().describe()
        self.declare(PciNotifyRegisters.notify_off_multiplier, 0)


class PciAccess(Structure):
    """A window onto the BARs for firmware that cannot reach them, section 4.1.4.9."""

    registers = PciAccessRegisters
    size = 20

    def __init__(self) -> None:
        super().__init__(PciStructure.PCI_CFG)

    def describe(self) -> None:
        """The driver says where it looks."""
        super().describe()
        self.declare(PciAccessRegisters.bar, writable=0xFF)
        self.declare(PciAccessRegisters.offset, writable=0xFFFFFFFF)
        self.declare(PciAccessRegisters.length, writable=0xFFFFFFFF)
        self.declare(PciAccessRegisters.pci_cfg_data, writable=0xFFFFFFFF)

    def read_pci_cfg_data(self) -> int:
        """Read where the window is; as it was where it is on nothing."""
        assert self.function is not None
        bar, offset, width = self._aim()
        region = self.function.bars[bar].region if width else None
        if region is None:
            return self.value(PciAccessRegisters.pci_cfg_data)
        if isinstance(region, PortRegion):
            return region.port_read(offset, width)
        return region.mmio_read(offset, width)

    def write_pci_cfg_data(self, value: int) -> None:
        """Write there."""
        assert self.function is not None
        bar, offset, width = self._aim()
        region = self.function.bars[bar].region if width else None
        value &= (1 << 8 * width) - 1
        if isinstance(region, PortRegion):
            region.port_write(offset, width, value)
        elif region is not None:
            region.mmio_write(offset, width, value)

    def _aim(self) -> tuple[int, int, int]:
        """BAR, offset and width of the access; a width of 0 if it is none."""
        assert self.function is not None
        registers = PciAccessRegisters
        number, offset, width = map(self.value, (registers.bar, registers.offset, registers.length))
        bar = self.function.bars.get(number)
        if bar is None or width not in WIDTHS or offset % width or offset + width > bar.size:
            return number, offset, 0
        return number, offset, width
