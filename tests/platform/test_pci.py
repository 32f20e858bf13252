"""Configuration space, BARs that move, and the ports that reach them."""

from __future__ import annotations

import pytest

from drivebay.drivers.pci import PciAddress, PciConfig
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.pci import (
    Bar,
    BarKind,
    Command,
    ConfigMechanism1,
    PciBus,
    PciFunction,
    PciIdentity,
)
from drivebay.platform.ports import PortRegion, PortSpace
from drivebay.wire import At, Register8, Register32, RegisterMap

IDENTITY = PciIdentity(0x8086, 0x7111, 0x010180, 1, 0x1AF4, 0x1100, interrupt_pin=1)
IO, MEMORY, MASTER = int(Command.IOSpace), int(Command.MemorySpace), int(Command.BusMaster)
COMMAND, STATUS = 0x04, 0x06


class Ports(PortRegion):
    """Ports that say where they were read."""

    def __init__(self, size: int, tag: int = 0) -> None:
        self.size, self.tag = size, tag

    def port_read(self, offset: int, width: int) -> int:
        return self.tag + offset


class Block:
    """Registers that say where they were read."""

    def __init__(self, size: int) -> None:
        self.size = size

    def mmio_read(self, offset: int, width: int) -> int:
        return offset

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Drop it."""


class Registers(RegisterMap):
    CONTROL = At(0x40, Register32)
    COUNT = At(0x44, Register8)


class Function(PciFunction):
    """With registers of its own, and a native mode that BAR 0 waits for."""

    registers = Registers

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.commands = 0
        self.count = 7
        super().__init__(
            IDENTITY,
            {
                0: Bar(BarKind.IO, 8, Ports(8)),
                1: Bar(BarKind.MEMORY32, 0x1000, Block(0x1000)),
                2: Bar(BarKind.MEMORY64, 0x4000, Block(0x4000), prefetchable=True),
                4: Bar(BarKind.IO, 16, Ports(16, 0x80)),
            },
        )
        self.declare(0x09, 1, 0x80, writable=0x05)
        self.declare(0x40, 4, 0x12345678, writable=0x00FF00FF, clearable=0xF0000000)

    def decodes(self, index: int) -> bool:
        native = self.config[0x09] & 1
        return super().decodes(index) and (index != 0 or bool(native))

    def write_ProgIF(self, value: int) -> None:  # noqa: N802
        self.told.append(("ProgIF", value))
        self.update_decoding()

    def write_CONTROL(self, value: int) -> None:  # noqa: N802
        self.told.append(("CONTROL", value))

    def read_COUNT(self) -> int:  # noqa: N802
        self.count += 1
        return self.count

    def command_changed(self) -> None:
        self.commands += 1


class Machine:
    """A bus with one function at 01.1."""

    def __init__(self) -> None:
        self.ports, self.mmio = PortSpace(), MmioSpace()
        self.interrupts: list[tuple[int, bool]] = []
        self.bus = PciBus(self.ports, self.mmio, lambda *change: self.interrupts.append(change))
        self.function = Function()
        self.bus.plug(1, 1, self.function)
        self.ports.map(0xCF8, ConfigMechanism1(self.bus))

    def address(self, slot: int, number: int, offset: int) -> None:
        self.ports.write(0xCF8, 4, 1 << 31 | slot << 11 | number << 8 | offset)


def test_identity() -> None:
    function = Function()
    assert function.config_read(0x00, 4) == 0x71118086
    assert function.config_read(0x08, 4) == 0x01018001
    assert function.config_read(0x2C, 4) == 0x11001AF4
    assert function.config_read(0x3D, 1) == 1
    function.config_write(0x00, 4, 0)
    assert function.config_read(0x00, 4) == 0x71118086


@pytest.mark.parametrize(
    ("offset", "flags", "size"),
    [(0x10, 1, 8), (0x14, 0, 0x1000), (0x18, 0xC, 0x4000), (0x20, 1, 16)],
)
def test_sizing(offset: int, flags: int, size: int) -> None:
    function = Function()
    assert function.config_read(offset, 4) == flags
    function.config_write(offset, 4, 0xFFFFFFFF)
    assert function.config_read(offset, 4) == (1 << 32) - size | flags
    for at in range(4):  # by bytes it is the same
        function.config_write(offset + at, 1, 0)
    assert function.config_read(offset, 4) == flags


def test_a_64_bit_bar_has_an_upper_half_and_absent_ones_are_zero() -> None:
    function = Function()
    function.config_write(0x1C, 4, 0xFFFFFFFF)
    assert function.config_read(0x1C, 4) == 0xFFFFFFFF
    function.config_write(0x24, 4, 0xFFFFFFFF)
    assert function.config_read(0x24, 4) == 0


def test_bars_answer_where_and_while_the_guest_says() -> None:
    machine = Machine()
    function, ports, mmio = machine.function, machine.ports, machine.mmio
    function.config_write(0x20, 4, 0xC000)
    function.config_write(0x14, 4, 0xFEB00000)
    function.config_write(0x18, 4, 0x80000000)
    function.config_write(0x1C, 4, 0x1)
    assert ports.read(0xC005, 1) == 0xFF
    function.config_write(COMMAND, 2, IO)
    assert ports.read(0xC005, 1) == 0x85
    assert mmio.read(0xFEB00010, 4) == 0xFFFFFFFF
    function.config_write(COMMAND, 2, IO | MEMORY)
    assert mmio.read(0xFEB00010, 4) == 0x10
    assert mmio.read(0x1_8000_0020, 4) == 0x20
    function.config_write(0x20, 4, 0xD000)  # while enabled
    assert ports.read(0xC005, 1) == 0xFF
    assert ports.read(0xD005, 1) == 0x85
    function.config_write(0x1D, 1, 0xFF)
    assert mmio.read(0x1_8000_0020, 4) == 0xFFFFFFFF
    assert mmio.read(0xFF01_8000_0020, 4) == 0x20
    function.config_write(COMMAND, 2, MEMORY)
    assert ports.read(0xD005, 1) == 0xFF
    machine.bus.unplug(1, 1)
    assert mmio.read(0xFEB00010, 4) == 0xFFFFFFFF
    assert machine.bus.find(1, 1) is None


def test_a_guest_may_put_bars_on_top_of_each_other_and_anywhere() -> None:
    machine = Machine()
    other = PciFunction(IDENTITY, {0: Bar(BarKind.IO, 16, Ports(16, 0x40))})
    machine.bus.plug(2, 0, other)
    for function, offset in ((other, 0x10), (machine.function, 0x20)):
        function.config_write(offset, 4, 0xC000)
        function.config_write(COMMAND, 2, IO)
    assert machine.ports.read(0xC000, 1) == 0x40
    other.config_write(COMMAND, 2, 0)
    assert machine.ports.read(0xC000, 1) == 0x80
    for address in (0xFFF0, 0xFFFFFFF0, 0x10000, 0):
        machine.function.config_write(0x20, 4, address)
    machine.function.config_write(COMMAND, 2, IO | MEMORY)
    for address in (0, 0xFFFFF000, 0x7FFFF000):
        machine.function.config_write(0x14, 4, address)


def test_a_function_may_keep_a_bar_from_decoding() -> None:
    machine = Machine()
    function = machine.function
    function.config_write(0x10, 4, 0xC000)
    function.config_write(COMMAND, 2, IO)
    assert machine.ports.read(0xC000, 1) == 0xFF
    function.config_write(0x09, 1, 0xFF)
    assert function.told == [("ProgIF", 0x85)]
    assert machine.ports.read(0xC001, 1) == 1
    function.config_write(0x08, 4, 0)
    assert machine.ports.read(0xC000, 1) == 0xFF


def test_registers_of_its_own() -> None:
    function = Function()
    function.config_write(0x42, 2, 0xFFFF)
    assert function.told == [("CONTROL", 0x02FF5678)]
    function.config_write(0x40, 1, 0)
    assert function.told[1:] == [("CONTROL", 0x02FF5600)]
    assert function.config_read(0x44, 1) == 8
    assert function.config_read(0x42, 4) == 0x000902FF
    function.config_write(0x44, 1, 99)
    assert function.count == 9


def test_status_bits_are_cleared_by_ones_only() -> None:
    function = Function()
    function.declare(STATUS, 2, 0x2280, clearable=0xF900)
    function.config_write(STATUS, 2, 0)
    function.config_write(COMMAND, 2, MASTER)
    assert function.config_read(STATUS, 2) == 0x2280
    function.config_write(STATUS, 2, 0xFFFF)
    assert function.config_read(STATUS, 2) == 0x0280
    assert function.bus_master
    assert function.commands == 1


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("offset", [*range(256 - 8, 260), 4095])
def test_the_end_of_the_space(offset: int, width: int) -> None:
    for size in (256, 4096):
        function = PciFunction(IDENTITY, config_size=size)
        inside = offset + width <= size
        assert function.config_read(offset, width) == (0 if inside else (1 << 8 * width) - 1)
        function.config_write(offset, width, 0xFF)
        assert not any(function.config[0x40:])


def test_interrupts() -> None:
    machine = Machine()
    function = machine.function
    function.intx.set(True)
    assert function.config_read(STATUS, 2) & 8
    assert machine.interrupts == [(1, True)]
    other = PciFunction(IDENTITY)
    machine.bus.plug(5, 0, other)
    other.intx.set(True)
    function.intx.set(False)
    assert machine.interrupts == [(1, True)]
    other.config_write(COMMAND, 2, int(Command.InterruptDisable))
    assert machine.interrupts == [(1, True), (1, False)]
    assert other.config_read(STATUS, 2) & 8
    other.config_write(COMMAND, 2, 0)
    machine.bus.unplug(5, 0)
    assert machine.interrupts[2:] == [(1, True), (1, False)]


def test_mechanism_1() -> None:
    machine = Machine()
    ports = machine.ports
    machine.address(1, 1, 0x03)
    assert ports.read(0xCF8, 4) == 0x80000903
    assert ports.read(0xCFC, 4) == 0x71118086
    assert ports.read(0xCFE, 2) == 0x7111
    assert ports.read(0xCFD, 1) == 0x80
    assert ports.read(0xCFD, 2) == 0x1180
    ports.write(0xCF8, 1, 0)
    ports.write(0xCFA, 2, 0)
    assert ports.read(0xCF8, 4) == 0x80000903
    assert ports.read(0xCF9, 1) == 0xFF
    machine.address(1, 1, 0x40)
    ports.write(0xCFE, 1, 0xAA)
    assert ports.read(0xCFC, 4) == 0x12AA5678
    for absent in (0x00000900, 0x80000800, 0x80010900, 0x8000F900):
        ports.write(0xCF8, 4, absent)
        assert ports.read(0xCFC, 4) == 0xFFFFFFFF
        ports.write(0xCFC, 4, 0)


def test_function_0_says_that_there_are_more() -> None:
    machine = Machine()
    bridge = PciFunction(IDENTITY)
    machine.bus.plug(1, 0, bridge)
    assert bridge.config_read(0x0E, 1) == 0x80
    machine.bus.reset()
    assert bridge.config_read(0x0E, 1) == 0x80
    machine.bus.unplug(1, 1)
    assert bridge.config_read(0x0E, 1) == 0
    for slot, number in ((1, 0), (32, 0), (0, 8)):
        with pytest.raises(ValueError):
            machine.bus.plug(slot, number, PciFunction(IDENTITY))


def test_reset_save_and_restore() -> None:
    machine = Machine()
    function = machine.function
    function.config_write(0x20, 4, 0xC000)
    function.config_write(0x40, 4, 0)
    function.config_write(COMMAND, 2, IO)
    state = machine.bus.save()
    machine.bus.reset()
    assert function.config_read(0x40, 4) == 0x12345678
    assert machine.ports.read(0xC000, 1) == 0xFF
    machine.bus.restore(state)
    assert function.config_read(0x40, 4) == 0x12005600
    assert machine.ports.read(0xC000, 1) == 0x80
    with pytest.raises(ValueError):
        PciBus(machine.ports, machine.mmio).restore(state)
    with pytest.raises(ValueError):
        PciFunction(PciIdentity(1, 2, 3)).restore(function.save())


@pytest.mark.parametrize(
    ("kind", "size"), [(BarKind.IO, 2), (BarKind.MEMORY32, 8), (BarKind.IO, 24)]
)
def test_sizes_that_no_bar_has(kind: BarKind, size: int) -> None:
    with pytest.raises(ValueError):
        Bar(kind, size)


def test_firmware_places_bars_side_by_side() -> None:
    """`PciConfig.place`: each at a multiple of its size, and a 64-bit one takes two numbers."""
    bars = {
        0: Bar(BarKind.MEMORY32, 0x1000),
        1: Bar(BarKind.IO, 32),
        2: Bar(BarKind.MEMORY64, 0x4000, prefetchable=True),
        5: Bar(BarKind.MEMORY32, 16),
    }
    function, ports = PciFunction(IDENTITY, bars), PortSpace()
    bus = PciBus(ports, MmioSpace())
    bus.plug(3, 0, function)
    ports.map(0xCF8, ConfigMechanism1(bus))
    config, at = PciConfig(ports), PciAddress(3, 0)
    config.place(at, ports=0xC004, memory=0xFE000000)
    places = {number: function.bar_address(number) for number in bars}
    assert places == {0: 0xFE000000, 1: 0xC020, 2: 0xFE004000, 5: 0xFE008000}
    assert {number: config.address(at, number) for number in bars} == places
    assert function.bus_master
