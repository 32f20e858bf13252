"""What a guest does to find a PCI function: configuration mechanism 1 (PCI 3.0 section 3.2.2.3.2).

::

    config = PciConfig(board.ports)
    ide = config.find(base_class=1, sub_class=1)
    config.write(ide, Header.Command.offset, 2, Command.of(BusMaster=1))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from drivebay.platform.pci import BarKind, Command, ConfigAddress, Header
from drivebay.platform.ports import Hold

__all__ = ["Mmio", "PciAddress", "PciConfig", "Ports"]

ADDRESS_PORT: Final = 0xCF8
DATA_PORT: Final = 0xCFC
NOBODY: Final = 0xFFFF
MULTIFUNCTION: Final = 0x80
NUMBER_OF_BARS: Final = 6
ALL_ONES: Final = 0xFFFFFFFF
IO_FLAGS, MEMORY_FLAGS, PREFETCHABLE = 0x3, 0xF, 0x8


class Ports(Protocol):
    """IN and OUT, and their string forms: a `PortSpace`, or whatever stands before one."""

    def read(self, port: int, width: int) -> int:
        """IN: `width` bytes (1, 2 or 4) at `port`."""

    def write(self, port: int, width: int, value: int) -> Hold | None:
        """OUT."""

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        """REP INS."""

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        """REP OUTS."""


class Mmio(Protocol):
    """Loads and stores: a `MmioSpace`, or whatever stands before one."""

    def read(self, address: int, width: int) -> int:
        """A load."""

    def write(self, address: int, width: int, value: int) -> None:
        """A store."""


class PciAddress(NamedTuple):
    """A function of bus 0."""

    slot: int
    function: int


class PciConfig:
    """The configuration spaces of bus 0."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def read(self, at: PciAddress, offset: int, width: int) -> int:
        """`width` bytes at `offset`; all ones if nobody is there."""
        return self._ports.read(self._aim(at, offset), width)

    def write(self, at: PciAddress, offset: int, width: int, value: int) -> None:
        """Write `width` bytes at `offset`."""
        self._ports.write(self._aim(at, offset), width, value)

    def _aim(self, at: PciAddress, offset: int) -> int:
        address = ConfigAddress.of(
            Enable=1, Device=at.slot, Function=at.function, RegisterNumber=offset >> 2
        )
        self._ports.write(ADDRESS_PORT, 4, address)
        return DATA_PORT + (offset & 3)

    def functions(self) -> Iterator[PciAddress]:
        """What is plugged in. Functions 1 to 7 are looked for where function 0 says so."""
        for slot in range(32):
            first = PciAddress(slot, 0)
            if self.read(first, Header.VendorID.offset, 2) == NOBODY:
                continue
            yield first
            if self.read(first, Header.HeaderType.offset, 1) & MULTIFUNCTION:
                for number in range(1, 8):
                    other = PciAddress(slot, number)
                    if self.read(other, Header.VendorID.offset, 2) != NOBODY:
                        yield other

    def find(self, base_class: int, sub_class: int) -> PciAddress | None:
        """The first function of a class."""
        for at in self.functions():
            found = self.read(at, Header.SubClass.offset, 2)
            if found == base_class << 8 | sub_class:
                return at
        return None

    def enable(self, at: PciAddress) -> None:
        """Let the function decode ports and memory, and master the bus."""
        command = self.read(at, Header.Command.offset, 2)
        command |= Command.IOSpace | Command.MemorySpace | Command.BusMaster
        self.write(at, Header.Command.offset, 2, command)

    def place(self, at: PciAddress, ports: int, memory: int) -> None:
        """Put every BAR somewhere from `ports` and `memory` on, and let the function decode them:
        what firmware has done before a driver comes (section 6.2.5.1).
        """
        number = 0
        while number < NUMBER_OF_BARS:
            offset = Header.BAR0.offset + 4 * number
            self.write(at, offset, 4, ALL_ONES)
            sized = self.read(at, offset, 4)
            if sized & BarKind.IO:
                size = -(sized & ~IO_FLAGS) & 0xFFFF
                address = -(-ports // size) * size
                ports = address + size
                self.write(at, offset, 4, address)
            elif size := -(sized & ~MEMORY_FLAGS) & ALL_ONES:
                address = -(-memory // size) * size
                memory = address + size
                self.write(at, offset, 4, address)
            number += 2 if sized & MEMORY_FLAGS & ~PREFETCHABLE == BarKind.MEMORY64 else 1
        self.enable(at)

    def address(self, at: PciAddress, bar: int) -> int:
        """Where a 32-bit BAR is."""
        value = self.read(at, Header.BAR0.offset + 4 * bar, 4)
        return value & ~(IO_FLAGS if value & BarKind.IO else MEMORY_FLAGS)
