"""Fuzz the floppy controller: port I/O of any width, DMA programmed anyhow, the order in which
disks complete, media that come and go, and save and restore in between.

The input is a guest with two drives of some media, one of them perhaps empty. Whatever it does, no
exception comes out, nothing is logged as an error, the engine is idle again in bounded time, and
after a reset the controller waits for a command.

    python -m fuzz.fuzz_floppy -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import logging

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["drivebay.controllers.floppy", "drivebay.machines.chips.i8237", "drivebay.platform"]
):
    from drivebay.controllers.floppy import MEDIA, FloppyController, FloppyDrive, map_floppy
    from drivebay.controllers.floppy import controller as floppy_controller
    from drivebay.controllers.floppy.commands import COMMANDS
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.machines.chips.i8237 import DmaPair
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.platform.logs import RationedLog
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.ports import PortSpace
    from drivebay.testing import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, guest_memory, settle

DOR, MSR, DSR, FIFO = 0x3F2, 0x3F4, 0x3F4, 0x3F5
IDLE = 0x80
OPCODES = sorted(COMMANDS)
MAX_SAVES = 2  # in an input: each costs as much as a hundred steps


class Machine:
    """The controller under test; what a save has left behind is thrown away."""

    def __init__(self, memory: GuestMemory, drives: list[FloppyDrive | None], shape: int) -> None:
        self.memory, self.shape = memory, shape
        self.ports, self.dma = PortSpace(), DmaPair(memory)
        line = Line(lambda _level: None)
        channel = self.dma.channels[2]
        self.fdc = FloppyController(engine, channel, line, lenient=bool(shape & 0x80))
        for unit, drive in enumerate(drives):
            if drive is not None:
                self.fdc.attach(unit, drive)
        self.ports.map(0x00, self.dma.first)
        self.ports.map(0x81, self.dma.pages)
        map_floppy(self.fdc, self.ports)
        self.saves = 0

    def out(self, port: int, value: int, width: int = 1) -> None:
        self.ports.write(port, width, value & (1 << 8 * width) - 1)

    def saved_and_restored(self) -> Machine:
        drives = [each and FloppyDrive(each.disk, each.kind) for each in self.fdc.drives]
        other = Machine(self.memory, drives, self.shape)
        state, dma = self.fdc.save(), self.dma.save()
        self.fdc.reset()
        other.dma.restore(dma)
        other.fdc.restore(state)
        other.saves = self.saves + 1
        return other


def command(machine: Machine, source: Input) -> None:
    """One that is right but for what the fuzzer bends."""
    shape, opcode = source.number("B"), OPCODES[source.number("B") % len(OPCODES)]
    usual = (shape & 5, 0, shape >> 2 & 1, 1 + (shape >> 4), 2, 18, 0x1B, 0xFF)
    machine.out(FIFO, opcode)
    for at in range(COMMANDS[opcode].parameters):
        machine.out(FIFO, source.number("B") if shape >> 5 == at % 8 else usual[at])


def aim(machine: Machine, source: Input) -> None:
    """Channel 2."""
    shape = source.number("B")
    machine.out(0x0C, 0)
    for port in (4, 5):
        machine.out(port, source.number("B") if shape & port else 0xFF)
        machine.out(port, source.number("B") & 0x3F)
    machine.out(0x81, source.number("B") if shape & 8 else 0)
    machine.out(0x0B, source.number("B") & 0xFC | 2 if shape & 2 else 0x46 + 4 * (shape & 1))
    machine.out(0x0A, 2 | (shape & 0xC0 == 0xC0) << 2)


def step(machine: Machine, source: Input) -> Machine:
    """One thing that happens."""
    action = source.number("B")
    if action < 70:
        command(machine, source)
    elif action < 100:
        aim(machine, source)
    elif action < 130:
        finish_one(puppets, engine, source.number("B"))
    elif action < 150:
        complete_all(puppets, engine)
    elif action < 180:
        data = memoryview(bytearray(source.number("H") & 0x7FF))
        if action & 1:
            machine.ports.read_string(FIFO, 1, data)
        else:
            machine.ports.write_string(FIFO, 1, data)
    elif action < 215:
        port, width = source.number("B"), 1 << action % 3
        port = port & 0x0F if port & 0x80 else 0x3F0 + port % 8
        machine.ports.read(port, width)
        machine.out(port, source.number("I"), width)
    elif action < 230:
        machine.out(DOR, source.number("B") | 0x1C)
    elif action < 240:
        machine.out(DSR, 0x80)
    elif action < 246:
        unit = action & 1
        if machine.fdc.eject(unit) is None:
            machine.fdc.insert(unit, puppets[unit])
    elif action < 249:
        machine.fdc.reset()
        machine.dma.reset()
    elif machine.saves < MAX_SAVES:
        return machine.saved_and_restored()
    return machine


engine = Engine(workers=0)
disks = {medium.name: RamDisk(medium.byte_count) for medium in MEDIA}
puppets: list[PuppetDisk] = []


def one_input(data: bytes) -> None:
    source = Input(data)
    shape = source.number("B")
    puppets[:] = [PuppetDisk(disks[MEDIA[(shape >> 2 * at) % len(MEDIA)].name]) for at in (0, 1)]
    first, second = (FloppyDrive(puppet) for puppet in puppets)
    if shape & 0x40:
        second.eject()
    machine = Machine(guest_memory(), [first, second], shape)
    machine.out(DOR, 0x3C)
    machine.out(0x3F7, int(MEDIA[shape % len(MEDIA)].rates[0]))
    while source.more:
        machine = step(machine, source)
    complete_all(puppets, engine)
    machine.fdc.reset()
    settle(engine)
    if machine.ports.read(MSR, 1) != IDLE:
        raise AssertionError(f"after a reset it is not idle: {machine.ports.read(MSR, 1):#x}")


if __name__ == "__main__":
    # No error is left out.
    log = logging.getLogger(floppy_controller.__name__)
    floppy_controller.guest_log = RationedLog(log, burst=1 << 60)
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 9}", "-len_control=0")
