"""A board with a floppy controller and its DMA controller, and the guest's hand on its ports."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from drivebay.controllers.floppy import (
    MEDIA,
    FloppyController,
    FloppyDrive,
    Medium,
    map_floppy,
)
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.floppy import FloppyDisk, FloppyDriver, Via
from drivebay.drivers.pci import Ports
from drivebay.machines.chips.i8237 import DmaPair
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.suspend import run
from drivebay.testing import PuppetDisk

RAM_SIZE: Final = 1 << 20
BUFFER: Final = 0x20000
DOR, TDR, MSR, DSR, FIFO, DIR, CCR = 0x3F2, 0x3F3, 0x3F4, 0x3F4, 0x3F5, 0x3F7, 0x3F7
IRQ: Final = 6
IDLE, RESULT, DATA_IN, DATA_OUT, EXECUTING = 0x80, 0xD0, 0xF0, 0xB0, 0x10
HD: Final = next(medium for medium in MEDIA if medium.name == "1.44M")
READ, WRITE, FORMAT, SEEK, SENSE = 0x46, 0x45, 0x4D, 0x0F, 0x08


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that are like no others."""
    return random.Random(seed).randbytes(size)


def filled(medium: Medium = HD, *, read_only: bool = False) -> RamDisk:
    """A disk of noise."""
    disk = RamDisk(medium.byte_count)
    run(disk.write(0, [memoryview(noise(medium.byte_count))]))
    disk.read_only = read_only
    return disk


def content(disk: Disk) -> bytes:
    """All that is on a disk."""
    data = memoryview(bytearray(disk.byte_count))
    run(disk.read(0, [data]))
    return bytes(data)


class Bench:
    """The chips on a board of their own. `drives` are those of drives A and B and so on; without
    them there is a 1.44M disk of noise in A, behind a `puppet` that holds nothing, and B is empty.
    """

    def __init__(
        self,
        engine: Engine,
        drives: Sequence[FloppyDrive | None] | None = None,
        memory: GuestMemory | None = None,
        *,
        lenient: bool = False,
    ) -> None:
        self.engine = engine
        self.memory = memory or GuestMemory.of_size(RAM_SIZE)
        self.board = Board(engine, self.memory)
        self.ports = self.board.ports
        self.dma = DmaPair(self.memory)
        self.line = self.board.line(IRQ)
        self.fdc = FloppyController(engine, self.dma.channels[2], self.line, lenient=lenient)
        self.ports.map(0x00, self.dma.first)
        self.ports.map(0x81, self.dma.pages)
        self.ports.map(0xC0, self.dma.second)
        map_floppy(self.fdc, self.ports)
        if drives is None:
            self.ram = filled()
            self.puppet = PuppetDisk(self.ram, lambda *_: False)
            drives = [FloppyDrive(self.puppet), FloppyDrive()]
        for unit, drive in enumerate(drives):
            if drive is not None:
                self.fdc.attach(unit, drive)

    def saved_and_restored(self) -> Bench:
        """Another bench that goes on where this one is; what is saved is plain data."""
        state = msgspec.msgpack.encode([self.fdc.save(), self.dma.save()])
        drives = [drive and FloppyDrive(drive.disk, drive.kind) for drive in self.fdc.drives]
        other = Bench(self.engine, drives, self.memory, lenient=self.fdc.lenient)
        floppy, dma = msgspec.msgpack.decode(state)
        other.dma.restore(dma)
        other.fdc.restore(floppy)
        return other

    # -- the guest ---------------------------------------------------------------------------------

    def inb(self, port: int) -> int:
        return self.ports.read(port, 1)

    def outb(self, port: int, value: int) -> None:
        self.ports.write(port, 1, value)

    def ins(self, length: int) -> bytes:
        """REP INSB of the FIFO."""
        buffer = bytearray(length)
        self.ports.read_string(FIFO, 1, memoryview(buffer))
        return bytes(buffer)

    def outs(self, data: bytes) -> None:
        """REP OUTSB."""
        self.ports.write_string(FIFO, 1, memoryview(data))

    def send(self, *parameters: int) -> None:
        """A command's bytes, each when the controller asks for it."""
        for byte in parameters:
            assert self.inb(MSR) & 0xC0 == 0x80, hex(self.inb(MSR))
            self.outb(FIFO, byte)

    def result(self) -> list[int]:
        """The result, to its end."""
        found = []
        while self.inb(MSR) == RESULT:
            found.append(self.inb(FIFO))
        assert self.inb(MSR) == IDLE
        return found

    def command(self, *parameters: int) -> list[int]:
        self.send(*parameters)
        self.engine.turn(0)
        return self.result()

    def motors(self, *units: int, rate: int = 0) -> None:
        """On, the last one selected."""
        self.outb(DOR, 0x0C | sum(0x10 << unit for unit in units) | units[-1])
        self.outb(CCR, rate)

    def seek(self, cylinder: int, unit: int = 0) -> None:
        assert self.command(SEEK, unit, cylinder) == []
        assert self.command(SENSE) == [0x20 | unit, cylinder]

    def aim(self, size: int, to_memory: bool = True, address: int = BUFFER, mode: int = 0) -> None:
        """Program channel 2."""
        self.outb(0x0A, 6)
        self.outb(0x0C, 0)
        for port, value in ((0x04, address), (0x05, size - 1)):
            self.outb(port, value & 0xFF)
            self.outb(port, value >> 8 & 0xFF)
        self.outb(0x81, address >> 16)
        self.outb(0x0B, mode or (0x46 if to_memory else 0x4A))
        self.outb(0x0A, 2)

    def ram_at(self, size: int, address: int = BUFFER) -> bytes:
        return bytes(self.memory.view(address, size))

    def store(self, data: bytes, address: int = BUFFER) -> None:
        self.memory.view(address, len(data))[:] = data

    def driver(
        self,
        *,
        ports: Ports | None = None,
        polled: bool = False,
        raised: Callable[[], bool] | None = None,
    ) -> FloppyDriver:
        """It waits for interrupts, as `raised` tells them, unless `polled`."""
        arena = Arena(self.memory, 0x10000, RAM_SIZE - 0x10000)
        told = None if polled else raised or (lambda: self.line.level)
        poll = partial(self.engine.turn, 0)
        return FloppyDriver(ports or self.ports, arena, poll=poll, raised=told)

    def disk(self, via: Via = Via.DMA, medium: Medium = HD, *, polled: bool = False) -> FloppyDisk:
        """Drive A by its driver."""
        return FloppyDisk(self.driver(polled=polled), 0, medium, via)
