"""A board with an IDE controller on it, and the guest's hand on its ports."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from drivebay.ata.device import Device
from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import IdeDriver
from drivebay.drivers.pci import Ports
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import (
    Command,
    ConfigMechanism1,
    Header,
    PciBus,
    PciFunction,
    PciIdentity,
)
from drivebay.platform.ports import Hold
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk

RAM_SIZE: Final = 4 << 20
ARENA: Final = 0x10000
SLOT, FUNCTION = 7, 1
CONFIG_PORT, DATA_PORT = 0xCF8, 0xCFC
BUS_MASTER_PORT: Final = 0xC000
COMMAND_PORTS, CONTROL_PORTS, INT13_PORTS = (0x1F0, 0x170), (0x3F6, 0x376), (0x1E0, 0x160)
IRQS: Final = (14, 15)
ISA_BRIDGE: Final = PciIdentity(0x8086, 0x7110, 0x060100)

Place = tuple[int, int]
"""Channel and unit."""


class Bench:
    """A PIIX4 IDE function at 00:07.1 with `drives` at their places, on a board of its own.

    `interrupts` lists every change of an interrupt line, its number and level. Further arguments
    are `PiixIde`'s.
    """

    def __init__(
        self,
        engine: Engine,
        drives: Mapping[Place, Device] | None = None,
        memory: GuestMemory | None = None,
        **options: Any,
    ) -> None:
        self.engine = engine
        self.memory = memory or GuestMemory.of_size(RAM_SIZE)
        self.board = Board(engine, self.memory)
        self.interrupts: list[tuple[int, bool]] = []
        self.board.interrupt = lambda number, level: self.interrupts.append((number, level))
        self.ports = self.board.ports
        lines = (self.board.line(IRQS[0]), self.board.line(IRQS[1]))
        self.ide = PiixIde(self.memory, lines, options.pop("identity", PIIX4), **options)
        for (channel, unit), drive in (drives or {}).items():
            self.ide.attach(channel, unit, drive)
        self.bus = PciBus(self.ports, self.board.mmio)
        self.ports.map(CONFIG_PORT, ConfigMechanism1(self.bus))
        self.bus.plug(SLOT, FUNCTION, self.ide)
        self.bus.plug(SLOT, 0, PciFunction(ISA_BRIDGE))  # or nobody looks for function 1

    def enable(self) -> None:
        """What firmware does: the bus master at `BUS_MASTER_PORT`, and it may master the bus."""
        self.config_write(Header.BAR0.offset + 16, 4, BUS_MASTER_PORT)
        self.config_write(Header.Command.offset, 2, Command.of(IOSpace=1, BusMaster=1))

    def driver(
        self, *, ports: Ports | None = None, polled: bool = False, **options: Any
    ) -> IdeDriver:
        """A driver whose arena is most of memory; it waits for interrupts unless `polled`."""
        arena = Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        raised = None if polled else lambda number: self.board.line(IRQS[number]).level
        poll = partial(self.engine.turn, 0)
        return IdeDriver(ports or self.ports, arena, poll=poll, raised=raised, **options)

    # -- configuration space -----------------------------------------------------------------------

    def _aim(self, offset: int) -> int:
        address = 1 << 31 | SLOT << 11 | FUNCTION << 8 | offset & 0xFC
        self.ports.write(CONFIG_PORT, 4, address)
        return DATA_PORT + (offset & 3)

    def config_read(self, offset: int, width: int) -> int:
        return self.ports.read(self._aim(offset), width)

    def config_write(self, offset: int, width: int, value: int) -> None:
        self.ports.write(self._aim(offset), width, value)

    # -- ports -------------------------------------------------------------------------------------

    def inb(self, port: int) -> int:
        return self.ports.read(port, 1)

    def inw(self, port: int) -> int:
        return self.ports.read(port, 2)

    def inl(self, port: int) -> int:
        return self.ports.read(port, 4)

    def outb(self, port: int, value: int) -> None:
        self.ports.write(port, 1, value)

    def outw(self, port: int, value: int) -> None:
        self.ports.write(port, 2, value)

    def outl(self, port: int, value: int) -> Hold | None:
        return self.ports.write(port, 4, value)

    def ins(self, port: int, length: int, width: int = 2) -> bytes:
        """REP INS of `length` bytes."""
        buffer = bytearray(length)
        self.ports.read_string(port, width, memoryview(buffer))
        return bytes(buffer)

    def outs(self, port: int, data: bytes, width: int = 2) -> None:
        """REP OUTS."""
        self.ports.write_string(port, width, memoryview(bytearray(data)))

    def wait(self, condition: Callable[[], object]) -> None:
        """Turn the engine until `condition` holds."""
        assert self.engine.run_until(lambda: bool(condition())), "it never happens"


class PortLog:
    """Ports that list every access to them: what it was, port and width. A string is one access."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.accesses: list[tuple[str, int, int]] = []

    def read(self, port: int, width: int) -> int:
        self.accesses.append(("in", port, width))
        return self._ports.read(port, width)

    def write(self, port: int, width: int, value: int) -> Hold | None:
        self.accesses.append(("out", port, width))
        return self._ports.write(port, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        self.accesses.append(("ins", port, width))
        self._ports.read_string(port, width, buffer)

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        self.accesses.append(("outs", port, width))
        self._ports.write_string(port, width, data)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that are like no others."""
    return random.Random(seed).randbytes(size)


def filled(size: int, seed: int = 0, sector_size: int = 512) -> RamDisk:
    """A disk of `size` bytes of noise."""
    disk = RamDisk(size, sector_size=sector_size)
    run(disk.write(0, [memoryview(noise(size, seed))]))
    return disk


def content(disk: Disk) -> bytes:
    """All that is on a disk."""
    data = memoryview(bytearray(disk.byte_count))
    run(disk.read(0, [data]))
    return bytes(data)


class Wires:
    """Ports of whichever bench is behind them now, which a test may change between two accesses.

    `before` is called before each access. With a `width` of 1, 2 or 4 a string is as many single
    accesses of it.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.before: Callable[[], None] = lambda: None
        self.width: int | None = None
        self.hold: Hold | None = None

    def read(self, port: int, width: int) -> int:
        self.before()
        return self.bench.ports.read(port, width)

    def write(self, port: int, width: int, value: int) -> Hold | None:
        self.before()
        self.hold = self.bench.ports.write(port, width, value)
        return self.hold

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        if self.width is None:
            self.before()
            self.bench.ports.read_string(port, width, buffer)
            return
        for at in range(0, len(buffer), self.width):
            item = self.read(port, self.width).to_bytes(self.width, "little")
            buffer[at : at + self.width] = item[: len(buffer) - at]

    def write_string(self, port: int, width: int, data: memoryview) -> None:
        if self.width is None:
            self.before()
            self.bench.ports.write_string(port, width, data)
            return
        for at in range(0, len(data), self.width):
            item = int.from_bytes(data[at : at + self.width], "little")
            self.write(port, self.width, item)

    def driver(self, polled: bool = False) -> IdeDriver:
        """A driver at the end of the wires."""
        arena = Arena(self.bench.memory, ARENA, RAM_SIZE - ARENA)
        raised = None if polled else lambda number: self.bench.board.line(IRQS[number]).level
        poll = partial(self.bench.engine.turn, 0)
        return IdeDriver(self, arena, poll=poll, raised=raised)

    def replace(self, drives: Mapping[Place, Device]) -> None:
        """Save the controller, throw it away, and go on with another that `drives` are on.

        What is saved is plain data: numbers, text and bytes in dicts and lists.
        """
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.bench.ide.save()))
        before, hold = self.bench, self.hold
        self.bench = Bench(before.engine, drives, before.memory)
        self.bench.ide.restore(state)
        for channel in self.bench.ide.channels:
            if hold is not None and channel.int13.hold is not None:
                channel.int13.hold.then(hold.complete)


class DiskRig:
    """A drive of noise at the first place, everything behind it, and its driver."""

    size = 1 << 20

    def __init__(self, engine: Engine, *, polled: bool = False) -> None:
        self.ram = filled(self.size)
        self.recording = RecordingDisk(self.ram)
        self.recording.volatile_cache = True
        self.puppet = PuppetDisk(self.recording, lambda *_: False)
        self.drive = AtaDisk(self.puppet, engine)
        self.bench = Bench(engine, {(0, 0): self.drive})
        self.log = PortLog(self.bench.ports)
        self.driver = self.bench.driver(polled=polled, ports=self.log)
        self.disk = self.driver.disk(0, 0)
