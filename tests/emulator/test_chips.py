"""The chips of a PC, through its ports."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivebay.hosts.emulator import Emulator
from drivebay.machines.chips.clock import Clock
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine

MS = 1_000_000


class Machine:
    """A PC and its ports."""

    def __init__(self, engine: Engine, ram_size: int = 64 << 20) -> None:
        self.serial = bytearray()
        self.debug = bytearray()
        self.pc = Pc(engine, ram_size, serial=self.serial.extend, debug=self.debug.extend)
        self.emulator = Emulator(self.pc)
        self.read = self.emulator.io_read

    def write(self, port: int, *values: int) -> None:
        for value in values:
            self.emulator.io_write(port, 1, value)

    def config(self, slot: int, number: int, offset: int, width: int = 4) -> int:
        self.emulator.io_write(0xCF8, 4, 1 << 31 | slot << 11 | number << 8 | offset & ~3)
        return self.read(0xCFC + (offset & 3), width)

    def set_config(self, slot: int, number: int, offset: int, width: int, value: int) -> None:
        self.config(slot, number, offset)
        self.emulator.io_write(0xCFC + (offset & 3), width, value)

    def initialise_pic(self, *, auto: int = 0) -> None:
        for base, vectors, cascade in ((0x20, 0x08, 4), (0xA0, 0x70, 2)):
            self.write(base, 0x11)
            self.write(base + 1, vectors, cascade, 1 | auto, 0)


@pytest.fixture
def machine(engine: Engine) -> Machine:
    return Machine(engine)


@pytest.mark.parametrize("size", [0, 4096, (1 << 20) + 4096, (2 << 30) + 65536])
def test_ram_that_cannot_be(engine: Engine, size: int) -> None:
    with pytest.raises(ValueError, match="RAM"):
        Pc(engine, size)


# -- interrupt controllers ----------------------------------------------------------------------


def test_interrupts_by_priority(machine: Machine) -> None:
    machine.initialise_pic()
    pc = machine.pc
    for number in (14, 5, 1):
        pc.line(number).set(True)
    assert pc.interrupt_requested
    assert pc.acknowledge() == 0x09
    assert not pc.interrupt_requested  # the others wait for its end
    machine.write(0x20, 0x20)
    assert pc.acknowledge() == 0x76
    machine.write(0xA0, 0x20)
    machine.write(0x20, 0x20)
    assert pc.acknowledge() == 0x0D
    machine.write(0x20, 0x65)  # the end of number 5
    assert not pc.interrupt_requested
    pc.line(5).set(False)
    pc.line(5).set(True)  # an edge
    assert pc.interrupt_requested


def test_masks_and_what_can_be_read(machine: Machine) -> None:
    machine.initialise_pic()
    machine.write(0x21, 0xDF)
    machine.pc.line(4).set(True)
    assert not machine.pc.interrupt_requested
    assert machine.read(0x21) == 0xDF
    machine.pc.line(5).set(True)
    assert machine.read(0x20) == 0x30  # requests
    machine.pc.acknowledge()
    machine.write(0x20, 0x0B)
    assert machine.read(0x20) == 0x20  # in service
    machine.write(0x20, 0x0A, 0x20)
    assert machine.read(0x20) == 0x10
    machine.write(0x21, 0)
    machine.write(0x20, 0x0C)  # poll
    assert machine.read(0x20) == 0x84
    machine.pc.line(4).set(False)
    machine.write(0x20, 0x0C)
    assert machine.read(0x20) == 0


def test_an_interrupt_that_goes_away_is_spurious(machine: Machine) -> None:
    machine.initialise_pic()
    machine.pc.line(3).set(True)
    machine.pc.line(3).set(False)
    assert not machine.pc.interrupt_requested
    assert machine.pc.acknowledge() == 0x0F
    assert machine.pc.interrupt_requested is False


def test_levels_come_again_while_they_last(machine: Machine) -> None:
    machine.initialise_pic()
    machine.write(0x4D0, 0xFF)
    machine.write(0x4D1, 0xFF)
    assert (machine.read(0x4D0), machine.read(0x4D1)) == (0xF8, 0xDE)
    machine.pc.line(11).set(True)
    for _ in range(2):
        assert machine.pc.acknowledge() == 0x73
        machine.write(0xA0, 0x20)
        machine.write(0x20, 0x20)
    machine.pc.line(11).set(False)
    assert not machine.pc.interrupt_requested


def test_automatic_end_and_rotation(machine: Machine) -> None:
    machine.initialise_pic(auto=2)
    machine.write(0x20, 0x80)  # rotate
    machine.pc.line(3).set(True)
    machine.pc.line(4).set(True)
    assert machine.pc.acknowledge() == 0x0B
    machine.pc.line(3).set(False)
    machine.pc.line(3).set(True)
    assert machine.pc.acknowledge() == 0x0C  # number 3 is last now
    assert machine.pc.acknowledge() == 0x0B
    for number in (14, 15):
        machine.pc.line(number).set(True)
    assert [machine.pc.acknowledge() for _ in range(2)] == [0x76, 0x77]
    machine.write(0x20, 0xC1)  # 2 comes first
    machine.write(0x20, 0x00)


# -- time ----------------------------------------------------------------------------------------


def test_the_clock() -> None:
    clock, happened = Clock(), list[int]()
    assert not clock.skip()
    clock.at(50, lambda: happened.append(clock.now))
    clock.at(20, lambda: happened.append(clock.now))
    clock.at(30, lambda: happened.append(0)).cancel()
    clock.advance(25)
    assert (happened, clock.now) == ([20], 25)
    assert clock.skip()
    assert (happened, clock.now) == ([20, 50], 50)
    assert clock.look() > 50
    clock.at(0, lambda: happened.append(1)).cancel()
    assert not clock.skip()


def test_the_timer_interrupts(machine: Machine) -> None:
    machine.initialise_pic()
    machine.write(0x43, 0x34)
    machine.write(0x40, 0xA9, 0x04)  # 1193: a millisecond
    for _ in range(3):
        assert machine.pc.sleep()
        assert machine.pc.acknowledge() == 8
        machine.write(0x20, 0x20)
    assert 2.99 * MS < machine.pc.clock.now < 3.01 * MS
    machine.write(0x43, 0x30)
    machine.write(0x40, 0xA9, 0x04)  # once only
    assert machine.pc.sleep()
    assert machine.pc.acknowledge() == 8
    machine.write(0x20, 0x20)
    assert not machine.pc.sleep()


@pytest.mark.parametrize(
    ("mode", "expected"), [(0, 900), (1, 900), (2, 900), (3, 800), (4, 900), (5, 900), (7, 800)]
)
def test_counters_count(machine: Machine, mode: int, expected: int) -> None:
    machine.write(0x43, 0x70 | mode << 1)
    machine.write(0x41, 1000 & 0xFF, 1000 >> 8)
    machine.pc.clock.advance(100 * 1_000_000_000 // 1193182)
    machine.write(0x43, 0x40)  # latch
    machine.pc.clock.advance(MS)
    count = machine.read(0x41) | machine.read(0x41) << 8
    assert abs(count - expected) <= 5
    machine.write(0x43, 0xC4)  # read back: status and count
    assert machine.read(0x41) & 0x3E == 0x30 | (mode & 3 if mode > 5 else mode) << 1
    assert machine.read(0x43) == 0xFF


@pytest.mark.parametrize(("access", "count"), [(0x50, 0x34), (0x60, 0x12)])
def test_counters_of_one_byte(machine: Machine, access: int, count: int) -> None:
    machine.write(0x43, access)
    machine.write(0x41, count)
    assert abs(machine.read(0x41) - count) <= 2


def test_the_gate_of_the_third_counter(machine: Machine) -> None:
    """How firmware calibrates: the output goes up when the count is over."""
    machine.write(0x61, 0)
    machine.write(0x43, 0xB0)
    machine.write(0x42, 0x00, 0x08)
    machine.pc.clock.advance(10 * MS)
    assert not machine.read(0x61) & 0x20
    machine.write(0x61, 1)
    before = machine.pc.clock.now
    while not machine.read(0x61) & 0x20:
        pass
    assert 1.7 * MS < machine.pc.clock.now - before < 1.8 * MS
    machine.write(0x43, 0xB6)
    machine.write(0x42, 0x00, 0x08)
    machine.write(0x61, 0)
    machine.write(0x61, 3)
    assert machine.read(0x61) & 0x23 == 0x23
    assert len({machine.read(0x61) & 0x10 for _ in range(50)}) == 2


def test_the_power_management_timer(machine: Machine) -> None:
    machine.set_config(1, 3, 0x40, 4, 0xB001)
    assert machine.read(0xB008, 4) == 0xFFFFFFFF
    machine.set_config(1, 3, 0x80, 1, 1)
    before = machine.read(0xB008, 4)
    machine.pc.clock.advance(MS)
    assert 3500 < machine.read(0xB008, 4) - before < 3700
    machine.set_config(1, 3, 0x40, 4, 0x600)
    assert machine.read(0xB008, 4) == 0xFFFFFFFF
    machine.emulator.io_write(0x602, 2, 0x20)
    machine.emulator.io_write(0x604, 2, 1)
    assert (machine.read(0x602, 2), machine.read(0x604, 2)) == (0x20, 1)
    state = machine.pc.bus.save()
    machine.emulator.reset()
    assert machine.read(0x608, 4) == 0xFFFFFFFF
    machine.pc.bus.restore(state)
    assert machine.read(0x608, 4) != 0xFFFFFFFF
    machine.emulator.io_write(0x604, 2, 0x2000)
    assert machine.pc.exit_status == 0


def test_the_date(machine: Machine) -> None:
    def at(index: int) -> int:
        machine.write(0x70, index)
        return machine.read(0x71)

    machine.pc.clock.advance((24 + 13) * 3600 * 1000 * MS)
    assert [at(index) for index in (0x32, 9, 8, 7, 6, 4)] == [0x20, 0x26, 1, 2, 6, 0x13]
    machine.write(0x70, 0x0B)
    machine.write(0x71, 0x06)
    assert at(4) == 13
    assert at(0x0D) == 0x80
    assert {at(0x0A) & 0x80 for _ in range(5)} == {0}
    machine.pc.clock.advance(998_500 * 1000)
    assert at(0x0A) & 0x80
    assert (at(0), at(2)) == (0, 0)


# -- memory sizes, configuration -----------------------------------------------------------------


@pytest.mark.parametrize("mebibytes", [1, 8, 64, 2048])
def test_memory_sizes(engine: Engine, mebibytes: int) -> None:
    machine = Machine(engine, mebibytes << 20)

    def pair(low: int) -> int:
        value = 0
        for number in (0, 1):
            machine.write(0x70, low + number)
            value |= machine.read(0x71) << 8 * number
        return value

    assert pair(0x15) == 640
    assert pair(0x17) == pair(0x30) == min(mebibytes - 1, 63) << 10
    assert pair(0x34) == max(mebibytes - 16, 0) << 4
    machine.emulator.io_write(0x510, 2, 3)
    assert machine.emulator.io_read_string(0x511, 1, 8) == (mebibytes << 20).to_bytes(8, "little")


def test_the_boot_order(machine: Machine) -> None:
    machine.pc.cmos.set_boot_order(3, 2)
    machine.write(0x70, 0x3D)
    assert machine.read(0x71) == 0x23
    machine.write(0x70, 0x38)
    assert machine.read(0x71) == 0


def test_files_of_firmware(machine: Machine) -> None:
    def item(number: int, length: int) -> bytes:
        machine.emulator.io_write(0x510, 2, number)
        return machine.emulator.io_read_string(0x511, 1, length)

    assert item(0, 5) == b"QEMU\0"
    assert item(1, 4) == b"\1\0\0\0"  # no DMA
    assert item(0x19, 4) == bytes(4)
    machine.pc.fw_cfg.add_file("etc/one", b"abc")
    machine.pc.fw_cfg.add_file("etc/two", b"")
    assert item(0x19, 12) == bytes((0, 0, 0, 2, 0, 0, 0, 3, 0, 0x20, 0, 0))
    assert item(0x19, 68)[12:] == b"etc/one".ljust(56, b"\0")
    assert item(0x20, 4) == b"abc\0"
    assert item(0x77, 2) == bytes(2)
    with pytest.raises(ValueError, match="55"):
        machine.pc.fw_cfg.add_file("x" * 56, b"")


def test_the_bridges(machine: Machine) -> None:
    assert machine.config(0, 0, 0) == 0x12378086
    assert machine.config(0, 0, 0x2C) == 0x11001AF4
    assert machine.config(1, 0, 0) == 0x71108086
    assert machine.config(1, 0, 0x0E, 1) == 0x80  # there are more functions
    assert machine.config(1, 3, 0x58) & 1 << 25
    machine.set_config(0, 0, 0x59, 1, 0x30)
    assert machine.config(0, 0, 0x59, 1) == 0x30


def test_pci_interrupts_are_routed(machine: Machine) -> None:
    machine.initialise_pic()
    function = machine.pc.bus.find(1, 3)  # INTA# of slot 1 is PIRQA
    assert function is not None
    function.intx.set(True)
    assert not machine.pc.interrupt_requested
    machine.set_config(1, 0, 0x60, 1, 10)
    assert machine.pc.line(10).level
    assert machine.pc.acknowledge() == 0x72
    machine.set_config(1, 0, 0x60, 1, 11)
    assert (machine.pc.line(10).level, machine.pc.line(11).level) == (False, True)
    machine.set_config(1, 0, 0x60, 1, 0x80)
    assert not machine.pc.line(11).level


# -- keyboard controller, serial port, single ports ----------------------------------------------


def test_the_keyboard_controller(machine: Machine) -> None:
    def ask(port: int, *values: int) -> list[int]:
        machine.write(port, *values)
        answers = []
        while machine.read(0x64) & 1:
            answers.append(machine.read(0x60))
        return answers

    assert ask(0x64, 0xAA) == [0x55]
    assert ask(0x64, 0xAB) == [0]
    assert ask(0x60, 0xFF) == [0xFA, 0xAA]
    assert ask(0x60, 0xF2) == [0xFA, 0xAB, 0x83]
    assert ask(0x60, 0xF4) == [0xFA]
    machine.write(0x64, 0x60)
    machine.write(0x60, 0x61)
    assert ask(0x64, 0x20) == [0x61]
    machine.write(0x64, 0xD1)
    machine.write(0x60, 0xDF)
    assert ask(0x64, 0xD0) == [0xDF]
    machine.write(0x64, 0xD4)
    assert ask(0x60, 0xFF) == [0xFE]  # no mouse
    assert machine.read(0x60) == 0


def test_the_serial_port(machine: Machine) -> None:
    line = machine.pc.line(4)
    machine.write(0x3FB, 0x83)
    machine.write(0x3F8, 0x0C)
    machine.write(0x3F9, 0x01)
    assert (machine.read(0x3F8), machine.read(0x3F9)) == (0x0C, 0x01)
    machine.write(0x3FB, 0x03)
    machine.write(0x3F8, *b"out")
    assert machine.serial == b"out"
    assert machine.read(0x3FD) == 0x60
    machine.write(0x3FA, 0x07)
    machine.write(0x3F9, 0x03)
    assert line.level
    assert machine.read(0x3FA) == 0xC2  # the transmitter is empty
    assert not line.level
    machine.pc.serial.receive(b"in")
    assert machine.read(0x3FA) == 0xC4
    assert machine.read(0x3FD) == 0x61
    assert [machine.read(0x3F8) for _ in range(3)] == [*b"in", 0]
    assert not line.level
    machine.pc.serial.receive(b"lost")
    machine.write(0x3FA, 0x03)
    assert machine.read(0x3FD) == 0x60
    machine.write(0x3FF, 0x5A)
    machine.write(0x3FC, 0x0B)
    assert [machine.read(port) for port in (0x3FF, 0x3FC, 0x3FE)] == [0x5A, 0x0B, 0xB0]


def test_single_ports(machine: Machine) -> None:
    machine.write(0x402, *b"de")
    machine.write(0xE9, *b"bug")
    assert machine.debug == b"debug"
    assert machine.read(0x402) == 0xE9
    machine.write(0x80, 0x42)
    assert machine.read(0x80) == machine.pc.post.code == 0x42
    machine.write(0x92, 0)
    assert machine.read(0x92) == 0
    machine.write(0xF4, 3)
    assert machine.pc.exit_status == 3
    assert machine.read(0xF4) == 0


@pytest.mark.parametrize(
    "reset",
    [
        lambda machine: machine.write(0xCF9, 0x06),
        lambda machine: machine.write(0x92, 1),
        lambda machine: machine.write(0x64, 0xFE),
        lambda machine: (machine.write(0x64, 0xD1), machine.write(0x60, 0xDE)),
    ],
)
def test_resets(machine: Machine, reset: Callable[[Machine], object]) -> None:
    machine.initialise_pic()
    machine.pc.line(14).set(True)
    machine.set_config(1, 0, 0x60, 1, 10)
    reset(machine)
    assert not machine.pc.interrupt_requested
    assert machine.config(1, 0, 0x60, 1) == 0x80
    assert machine.read(0x21) == 0xFF
    machine.write(0xCF9, 0x02)
    assert machine.read(0xCF9) == 0x02
