"""Fuzz SCSI targets: CDBs and parameter data, the order in which disks complete, task management,
units that come and go.

The input is an initiator of a target with two disks that the test holds, one of which has
reservations, and a DVD drive. Whatever it does, no exception comes out, nothing is logged as an
error, each command ends once, and afterwards the target is at rest and its disks can be read.

    python -m fuzz.fuzz_scsi -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.scsi"]):
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.disk.contract import Disk
    from drivebay.disk.filters.prwrap import Prwrap
    from drivebay.platform.engine import Engine
    from drivebay.scsi.disk import ScsiDisk
    from drivebay.scsi.disk.commands import ACTIONS, COMMANDS
    from drivebay.scsi.disk.reservations import transport_id
    from drivebay.scsi.dvd import Dvd
    from drivebay.scsi.dvd.commands import COMMANDS as DVD_COMMANDS
    from drivebay.scsi.status import Status
    from drivebay.scsi.target import Attribute, Outcome, Target
    from drivebay.suspend import run
    from drivebay.testing.puppet import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, settle

SIZE = 64 << 10
SECTORS = (512, 4096)
ROOMS = (0, 1, 4, 8, 36, 252, 512, 1024, 4096, 8192)
OPCODES = bytes(sorted({*COMMANDS, *DVD_COMMANDS}))
SERVICES = sorted(ACTIONS)
READ_10, WRITE_10, INQUIRY, REPORT_LUNS = 0x28, 0x2A, 0x12, 0xA0
USUAL = bytes((READ_10, WRITE_10, 0x88, 0x8A, 0x89, 0x93, 0x42, 0x2F, 0x35, 0x15))


class Machine:
    """The target under test; its disks outlive it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.target = Target(engine)
        self.puppets = [PuppetDisk(disk) for disk in disks]
        self.tag = 0
        self.told: dict[int, Outcome] = {}
        self.units: list[ScsiDisk] = []
        for lun in range(2):
            self.add(lun)
        self.dvd = Dvd(disc)
        self.target.add(2, self.dvd)

    def add(self, lun: int) -> None:
        disk: Disk = Prwrap(self.puppets[lun]) if lun else self.puppets[lun]
        unit = ScsiDisk(disk, initiator=transport_id(b"fuzz"))
        self.units.append(unit)
        self.target.add(lun, unit)

    def send(self, lun: int, cdb: bytes, data: bytes, room: int, attribute: Attribute) -> int:
        self.tag += 1
        tag = self.tag

        def done(outcome: Outcome) -> None:
            assert tag not in self.told, "a command ends twice"
            assert 0 <= outcome.transferred <= max(room, len(data)), outcome
            assert len(outcome.sense) <= 96
            self.told[tag] = outcome

        inside = [memoryview(bytearray(room))] if room else []
        self.target.submit(
            lun, cdb, tag, inside, [memoryview(data)] if data else [], done, attribute
        )
        return tag

    def let_go(self) -> None:
        for unit in self.units:
            unit.close()
        self.dvd.remove(force=True)


def command(machine: Machine, source: Input) -> None:
    """One command, mostly as it should be."""
    shape, choice = source.number("B"), source.number("B")
    lun = (0, 0, 0, 1, 1, 2, 3, source.number("H"))[shape & 7]
    lba, count = source.number("B") % 140, source.number("B") & 15
    if shape & 0x38 == 0:
        opcode = USUAL[choice % len(USUAL)]
        cdb = struct.pack(">BBQIBB", opcode, source.number("B"), lba, count, 0, 0)
        if opcode < 0x60:
            cdb = struct.pack(">BBIBHB", opcode, source.number("B"), lba, 0, count, 0)
    elif shape & 0x38 == 8:
        opcode, action = SERVICES[choice % len(SERVICES)]
        cdb = bytes([opcode, action]) + source.take(14)
    else:
        cdb = bytes([OPCODES[choice % len(OPCODES)] if shape & 0x20 else choice]) + source.take(15)
    if shape & 0x40:
        cdb = cdb[: source.number("B") % 17]
    room = ROOMS[source.number("B") % len(ROOMS)]
    data = b""
    if shape & 0x80:
        data, room = source.take(source.number("B") >> 2).ljust(room, b"\0"), 0
    attribute = (*(Attribute.SIMPLE,) * 6, Attribute.ORDERED, Attribute.HEAD_OF_QUEUE)[choice & 7]
    machine.send(lun, cdb, data, room, attribute)


def reset(machine: Machine, choice: int) -> None:
    lun = choice >> 4 & 1
    functions: tuple[Callable[[], object], ...] = (
        lambda: machine.target.abort_task(lun, machine.tag - (choice & 3)),
        lambda: machine.target.abort_task_set(lun),
        lambda: machine.target.reset_unit(lun) if machine.target.unit(lun) else None,
        machine.target.reset,
    )
    functions[choice >> 2 & 3]()


def step(machine: Machine, source: Input) -> None:
    """One thing that happens."""
    action = source.number("B")
    if action < 160:
        command(machine, source)
    elif action < 200:
        finish_one(machine.puppets, engine, source.number("B"))
    elif action < 210:
        complete_all(machine.puppets, engine)
    elif action < 225:
        reset(machine, source.number("B"))
    elif action < 235:
        lun = action & 1
        if machine.target.unit(lun) is None:
            machine.add(lun)
        else:
            machine.target.remove(lun)
    elif action < 245:
        run(disks[0].resize(source.number("B") + 1))
    elif action < 250 and not machine.dvd.locked:
        machine.dvd.insert(disc)
    engine.turn(0)


def check_usable(machine: Machine) -> None:
    """Each command has ended, and the units answer."""
    for puppet in machine.puppets:
        puppet.holds = lambda *_: False
    complete_all(machine.puppets, engine)
    settle(engine, lambda: machine.target.at_rest)
    assert len(machine.told) == machine.tag, "a command does not end"
    for lun in (0, 1, 2):
        if machine.target.unit(lun) is None:
            machine.add(lun)
    machine.target.reset()
    for lun, unit in ((0, disks[0]), (1, disks[1]), (2, None)):
        simple = Attribute.SIMPLE
        machine.send(lun, bytes(6), b"", 0, simple)
        tag = machine.send(lun, bytes([INQUIRY, 0, 0, 0, 36, 0]), b"", 36, simple)
        if unit is not None:
            read = struct.pack(">BBIBHB", READ_10, 0, 0, 0, 1, 0)
            reading = machine.send(lun, read, b"", unit.sector_size, simple)
        settle(engine, lambda: machine.target.at_rest)
        assert machine.told[tag].status == Status.GOOD
        if unit is not None:
            assert machine.told[reading].status in (Status.GOOD, Status.CHECK_CONDITION)


engine = Engine(workers=0)
disks = [RamDisk(SIZE, sector_size=size) for size in SECTORS]
disc = RamDisk(SIZE)


def one_input(data: bytes) -> None:
    """One initiator's life."""
    source = Input(data)
    machine = Machine(engine)
    while source.more:
        step(machine, source)
    check_usable(machine)
    machine.let_go()


if __name__ == "__main__":
    # A slow input is a find.
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 11}", "-len_control=20")
