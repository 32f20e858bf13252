"""Fuzz the NVMe function: registers, doorbells, commands and lists in memory, the order in which
disks complete, namespaces that come and go, and save and restore in between.

The input is a guest with two namespaces. Whatever it does, no exception comes out, nothing is
logged as an error, the engine is idle again in bounded time, and after a reset both can be read.

    python -m fuzz.fuzz_nvme -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.controllers.nvme"]):
    from drivebay.controllers.nvme import Nvme, Status, Subsystem, worker
    from drivebay.controllers.nvme.opcodes import AdminOpcode, NvmOpcode
    from drivebay.controllers.nvme.structures import Command
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.disk.contract import Disk
    from drivebay.disk.filters.prwrap import Prwrap
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.platform.logs import RationedLog
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.mmio import MmioSpace
    from drivebay.platform.ports import PortSpace
    from drivebay.testing.puppet import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, guest_memory, put, settle

ENTRIES = 16
SQS, CQS, DATA, MORE = (0x1000, 0x3000, 0x5000), (0x2000, 0x4000, 0x6000), 0x7000, 0x9000
DOORBELLS = 0x1000
MAX_SAVES = 2  # in an input: each costs as much as a hundred steps
ADMIN = bytes(AdminOpcode) + bytes((AdminOpcode.DOORBELL_BUFFER_CONFIG, 0x19, 0x14))
IO = bytes(NvmOpcode) + bytes((NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE)) * 4
NSIDS = (1, 1, 1, 2, 2, 3, 0, 0xFFFFFFFF)
REGISTERS = (0x00, 0x08, 0x0C, 0x10, 0x14, 0x1C, 0x20, 0x24, 0x28, 0x2C, 0x30, 0x34)
SIZE = 64 << 10
STAYS = (None, Status.SANITIZE_FAILED)


def created(size: int, sector_size: int) -> Disk:
    return RamDisk(size, sector_size=sector_size)


class Machine:
    """The function under test; what a save has left behind is thrown away."""

    def __init__(self, engine: Engine, memory: GuestMemory) -> None:
        self.engine, self.memory = engine, memory
        self.puppets = [PuppetDisk(disk) for disk in disks]
        subsystem = Subsystem(create=created, capacity=4 * SIZE, most_namespaces=4)
        self.nvme = Nvme(memory, engine, subsystem=subsystem, queues=2)
        self.nvme.add(1, self.puppets[0])
        self.nvme.add(2, Prwrap(self.puppets[1]))
        self.nvme.plugged(PortSpace(), MmioSpace(), Line(lambda _level: None))
        self.nvme.config_write(4, 2, 6)
        self.tails = [0, 0, 0]
        self.saves = 0

    def saved_and_restored(self) -> Machine:
        if set(self.nvme.subsystem.namespaces) != {1, 2}:
            return self
        state = self.nvme.save()
        other = Machine(self.engine, self.memory)
        other.nvme.restore(state)
        other.tails, other.saves = list(self.tails), self.saves + 1
        self.let_go()
        return other

    def let_go(self) -> None:
        """The disks outlive it, and shall not tell it of anything."""
        for nsid in list(self.nvme.subsystem.namespaces):
            self.nvme.remove(nsid)

    def out(self, offset: int, value: int, width: int = 4) -> None:
        self.nvme.controller.mmio_write(offset, width, value)

    def start(self) -> None:
        """As a driver does: admin queues, then a pair for each of us."""
        self.out(0x14, 0)
        complete_all(self.puppets, self.engine)
        self.tails = [0, 0, 0]
        self.out(0x24, (ENTRIES - 1) << 16 | ENTRIES - 1)
        self.out(0x28, SQS[0], 8)
        self.out(0x30, CQS[0], 8)
        self.out(0x14, 0x00460001)
        size = (ENTRIES - 1) << 16
        for number in (1, 2):
            self.send(0, Command(5, 0, number, 0, 0, 0, 0, CQS[number], 0, size | number,
                                 number << 16 | 3, 0, 0, 0, 0))  # fmt: skip
            self.send(0, Command(1, 0, number, 0, 0, 0, 0, SQS[number], 0, size | number,
                                 number << 16 | 1, 0, 0, 0, 0))  # fmt: skip
        self.taken()

    def send(self, queue: int, command: Command) -> None:
        put(self.memory, SQS[queue] + 64 * self.tails[queue], command.pack())
        self.tails[queue] = (self.tails[queue] + 1) % ENTRIES
        self.out(DOORBELLS + 8 * queue, self.tails[queue])
        self.engine.turn(0)

    def taken(self) -> None:
        """The driver has taken every completion there is."""
        for number, cq in enumerate(self.nvme.controller.cqs):
            if cq is not None:
                self.out(DOORBELLS + 8 * number + 4, cq.tail)


def command(machine: Machine, queue: int, source: Input) -> None:
    """One command, mostly as it should be."""
    shape = source.number("B")
    opcodes = IO if queue else ADMIN
    opcode = opcodes[source.number("B") % len(opcodes)]
    flags = (0, 0, 0, 0, 0x40, 1, 2, shape)[shape & 7]
    nsid = NSIDS[source.number("B") & 7]
    prp1, prp2 = DATA + 4 * source.number("B"), MORE
    if shape & 0x80:
        prp1, prp2 = source.number("I"), source.number("Q")
    if shape & 0x40:
        put(machine.memory, DATA, source.take(64))
    if queue and shape & 0x20 == 0:
        dwords = [
            source.number("B"),
            0,
            source.number("H") & 0x3F | source.number("B") << 24,
            0,
            0,
            0,
        ]
    else:
        dwords = [source.number("I") for _ in range(6)]
    cid = source.number("B") & 0x1F
    machine.send(queue, Command(opcode, flags, cid, nsid, 0, 0, 0, prp1, prp2, *dwords))


def step(machine: Machine, source: Input) -> Machine:
    """One thing that happens."""
    action = source.number("B")
    if action < 100:
        command(machine, (1, 1, 2)[action % 3], source)
    elif action < 150:
        command(machine, 0, source)
    elif action < 180:
        finish_one(machine.puppets, engine, source.number("B"))
    elif action < 190:
        complete_all(machine.puppets, machine.engine)
    elif action < 205:
        machine.taken()
    elif action < 215:
        machine.out(DOORBELLS + 4 * (source.number("B") & 7), source.number("H") & 0x1F)
        engine.turn(0)
    elif action < 222:
        put(machine.memory, MORE + 4 * (source.number("B") & 7), source.take(2) + b"\0\0")
    elif action < 230:
        offset, width = source.number("H") & 0x103F, 1 << action % 4
        machine.nvme.controller.mmio_read(offset, width)
        machine.out(offset, source.number("Q") & (1 << 8 * width) - 1, width)
    elif action < 234:
        machine.out(REGISTERS[source.number("B") % len(REGISTERS)], source.number("I"))
    elif action < 240:
        offset, width = source.number("B"), 1 << action % 3
        machine.nvme.config_write(offset, width, source.number("I") & (1 << 8 * width) - 1)
    elif action < 244:
        put(machine.memory, source.number("H") * 2, source.take(16))
    elif action < 252:
        machine.start()
    elif machine.saves < MAX_SAVES:
        return machine.saved_and_restored()
    return machine


def check_usable(machine: Machine) -> None:
    """After a reset each namespace answers, and each of its blocks can be had."""
    machine.nvme.reset()
    for puppet in machine.puppets:
        puppet.holds = lambda *_: False
    complete_all(machine.puppets, machine.engine)
    namespaces = machine.nvme.subsystem.namespaces.values()
    at_rest = engine.run_until(
        lambda: machine.nvme.at_rest and all(each.busy in STAYS for each in namespaces), 5
    )
    assert at_rest, "a command, or a sanitize operation, does not end"
    machine.nvme.config_write(4, 2, 6)
    machine.start()
    settle(engine)
    machine.send(0, Command(6, 0, 9, 0, 0, 0, 0, DATA, MORE, 1, 0, 0, 0, 0, 0))
    settle(engine)
    cq = machine.nvme.controller.cqs[0]
    assert cq is not None, "the controller is not ready"
    end = struct.unpack("<HH", machine.memory.view(CQS[0] + 16 * (cq.tail - 1) + 12, 4))
    assert end == (9, 1), f"IDENTIFY ends with {end}"
    assert all(queue is not None for queue in machine.nvme.controller.sqs), "no queues"


def one_input(data: bytes) -> None:
    """One guest's life."""
    source = Input(data)
    machine = Machine(engine, guest_memory())
    machine.start()
    while source.more:
        machine = step(machine, source)
    check_usable(machine)
    machine.let_go()


disks = [RamDisk(SIZE), RamDisk(SIZE, sector_size=4096)]
engine = Engine(workers=0)

if __name__ == "__main__":
    worker.guest_log = RationedLog(worker.log, burst=1 << 60)  # no error is left out
    # A slow input is a find. Long ones from the start: a machine costs as much as many steps.
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 9}", "-len_control=0")
