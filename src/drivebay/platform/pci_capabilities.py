"""PCI capabilities, chained in configuration space: power management and PCI Express.

MSI and MSI-X are in `pci_messages`.

A function is given its capabilities once it has its header::

    class Controller(PciFunction):
        def __init__(self) -> None:
            self.msix = MsixCapability(vectors=8, bar=4)
            super().__init__(IDENTITY, {0: Bar(...), 4: self.msix.whole_bar()})
            add_capabilities(self, [PowerManagement(), self.msix, PciExpress()])

Sections are of the PCI Local Bus Specification 3.0, the PCI Power Management Specification 1.2 and
the PCI Express Base Specification 2.0.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar, Final, TypeVar

from drivebay.platform.pci import Header, PciFunction, Status
from drivebay.wire import At, Bit, Bits, Register8, Register16, Register32, RegisterMap

__all__ = [
    "Capability",
    "CapabilityId",
    "PciExpress",
    "PowerManagement",
    "add_capabilities",
    "find_capability",
]

FIRST: Final = 0x40
"""Where the chain begins unless the function says so."""


class CapabilityId(enum.IntEnum):
    """Which capability one is (PCI Code and ID Assignment)."""

    POWER_MANAGEMENT = 0x01
    MSI = 0x05
    VENDOR_SPECIFIC = 0x09
    PCI_EXPRESS = 0x10
    MSIX = 0x11


class CapabilityHeader(RegisterMap):
    """What every capability begins with (PCI 3.0, section 6.7)."""

    ID = At(0, Register8)
    Next = At(1, Register8)


class Capability:
    """A capability of one function. `size` is in bytes, `registers` are from its start.

    Handlers ``read_NAME`` and ``write_NAME`` of a subclass are called as those of a function are.
    """

    id: ClassVar[CapabilityId]
    registers: ClassVar[type[RegisterMap]]
    size: int

    def __init__(self) -> None:
        self.offset = 0
        self.function: PciFunction | None = None

    def declare(self, at: At, value: int = 0, writable: int = 0, clearable: int = 0) -> None:
        """Say of a register what it holds after a reset and which bits a guest can change."""
        assert self.function is not None
        self.function.declare(self.offset + at.offset, at.type.size, value, writable, clearable)

    def value(self, at: At) -> int:
        """What a register holds."""
        assert self.function is not None
        start = self.offset + at.offset
        return int.from_bytes(self.function.config[start : start + at.type.size], "little")

    def store(self, at: At, value: int) -> None:
        """Change what a register holds, as the device."""
        assert self.function is not None
        start, size = self.offset + at.offset, at.type.size
        self.function.config[start : start + size] = value.to_bytes(size, "little")

    def describe(self) -> None:
        """Declare the registers. For subclasses."""


C = TypeVar("C", bound=Capability)


def add_capabilities(
    function: PciFunction, capabilities: Iterable[Capability], at: int = FIRST
) -> None:
    """Chain `capabilities` in `function`, the first at offset `at` (a multiple of 4).

    Raises `ValueError` if they do not fit into the first 256 bytes.
    """
    previous = Header.CapabilitiesPointer.offset
    chain = tuple(capabilities)
    for capability in chain:
        if at + capability.size > 0x100:
            raise ValueError(f"no room for capability {capability.id.name} at {at:#x}")
        capability.offset, capability.function = at, function
        function.declare(previous, 1, at)
        capability.declare(CapabilityHeader.ID, capability.id)
        capability.declare(CapabilityHeader.Next)
        capability.describe()
        function.handle(at, capability.registers, capability)
        previous = at + CapabilityHeader.Next.offset
        at = (at + capability.size + 3) & ~3
    function.capabilities += chain
    status = int.from_bytes(function.config[6:8], "little")
    function.declare(6, 2, status | Status.CapabilitiesList, clearable=0xF900)


def find_capability(function: PciFunction, kind: type[C]) -> C | None:
    """The capability of that kind, if `function` has it."""
    return next((each for each in function.capabilities if isinstance(each, kind)), None)


# -- power management ----------------------------------------------------------------------------


class PowerCapabilities(Register16):
    """PMC (PM 1.2, section 3.2.3)."""

    PMESupport = Bits(15, 11)
    D2Support = Bit(10)
    D1Support = Bit(9)
    Version = Bits(2, 0)


class PowerControl(Register16):
    """PMCSR (section 3.2.4)."""

    PMEStatus = Bit(15)
    NoSoftReset = Bit(3)
    PowerState = Bits(1, 0)


class PowerRegisters(RegisterMap):
    """The power management block (section 3.2)."""

    PMC = At(2, PowerCapabilities)
    PMCSR = At(4, PowerControl)


class PowerManagement(Capability):
    """D0 and D3hot; the function keeps its state in D3hot (No_Soft_Reset)."""

    id = CapabilityId.POWER_MANAGEMENT
    registers = PowerRegisters
    size = 8

    @property
    def asleep(self) -> bool:
        """Whether the guest has put the function into D3hot."""
        return PowerControl(self.value(PowerRegisters.PMCSR)).PowerState == 3

    def describe(self) -> None:
        """Version 3, nothing but D0 and D3hot."""
        self.declare(PowerRegisters.PMC, PowerCapabilities.of(Version=3))
        self.declare(
            PowerRegisters.PMCSR,
            PowerControl.of(NoSoftReset=1),
            writable=PowerControl.PowerState,
        )


# -- PCI Express ---------------------------------------------------------------------------------


class ExpressCapabilities(Register16):
    """PCI Express Capabilities (PCIe 2.0, section 7.8.2)."""

    InterruptMessageNumber = Bits(13, 9)
    SlotImplemented = Bit(8)
    PortType = Bits(7, 4)
    Version = Bits(3, 0)


class DeviceCapabilities(Register32):
    """Device Capabilities (section 7.8.3)."""

    FunctionLevelReset = Bit(28)
    RoleBasedErrorReporting = Bit(15)
    ExtendedTag = Bit(5)
    MaxPayloadSize = Bits(2, 0)


class DeviceControl(Register16):
    """Device Control (section 7.8.4)."""

    InitiateFunctionLevelReset = Bit(15)
    Settings = Bits(14, 0)


class LinkCapabilities(Register32):
    """Link Capabilities (section 7.8.6)."""

    PortNumber = Bits(31, 24)
    MaximumLinkWidth = Bits(9, 4)
    MaximumLinkSpeed = Bits(3, 0)


class LinkStatus(Register16):
    """Link Status (section 7.8.8)."""

    NegotiatedLinkWidth = Bits(9, 4)
    CurrentLinkSpeed = Bits(3, 0)


class ExpressRegisters(RegisterMap):
    """The PCI Express block of an endpoint, version 2 (section 7.8)."""

    Capabilities = At(2, ExpressCapabilities)
    DeviceCapabilities = At(4, DeviceCapabilities)
    DeviceControl = At(8, DeviceControl)
    DeviceStatus = At(0xA, Register16)
    LinkCapabilities = At(0xC, LinkCapabilities)
    LinkControl = At(0x10, Register16)
    LinkStatus = At(0x12, LinkStatus)


class PciExpress(Capability):
    """An endpoint on one lane of 2.5 GT/s, with function level reset."""

    id = CapabilityId.PCI_EXPRESS
    registers = ExpressRegisters
    size = 0x3C

    def describe(self) -> None:
        """Everything that a driver looks at."""
        self.declare(ExpressRegisters.Capabilities, ExpressCapabilities.of(Version=2))
        capable = DeviceCapabilities.of(FunctionLevelReset=1, RoleBasedErrorReporting=1)
        self.declare(ExpressRegisters.DeviceCapabilities, capable)
        # Settings of a link that there is not are stored. Function level reset reads zero.
        self.declare(ExpressRegisters.DeviceControl, writable=0xFFFF)
        self.declare(ExpressRegisters.DeviceStatus, clearable=0x000F)
        link = LinkCapabilities.of(MaximumLinkWidth=1, MaximumLinkSpeed=1)
        self.declare(ExpressRegisters.LinkCapabilities, link)
        self.declare(ExpressRegisters.LinkControl, writable=0x00FB)
        status = LinkStatus.of(NegotiatedLinkWidth=1, CurrentLinkSpeed=1)
        self.declare(ExpressRegisters.LinkStatus, status)

    def write_DeviceControl(self, value: int) -> None:
        """Function level reset (section 6.6.2)."""
        if value & DeviceControl.InitiateFunctionLevelReset:
            assert self.function is not None
            self.store(ExpressRegisters.DeviceControl, value & DeviceControl.Settings)
            self.function.reset()
