"""Fuzz the AHCI function: registers, command lists and tables in memory, the order in which disks
complete, drives that are pulled, and save and restore in between.

The input is a guest with a disk, a DVD drive with and without a medium, and an empty port. Whatever
it does, no exception comes out, nothing is logged as an error, the engine is idle again in bounded
time, and after a reset every drive works.

    python -m fuzz.fuzz_ahci -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.controllers.ahci", "drivebay.ata"]):
    from drivebay.ata import device, ncq
    from drivebay.ata.device import Device
    from drivebay.ata.disk import AtaDisk
    from drivebay.ata.packet import PacketDevice
    from drivebay.controllers.ahci import Ahci
    from drivebay.controllers.ahci.registers import GenericRegisters, PortRegisters
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.platform.logs import RationedLog
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.mmio import MmioSpace
    from drivebay.platform.ports import PortSpace
    from drivebay.scsi.dvd import Dvd, PhysicalInterface
    from drivebay.testing.puppet import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, guest_memory, put, settle

LISTS, FISES, TABLES, DATA = 0x0, 0x1000, 0x2000, 0x6000
TABLE_SIZE = 0x100
PORTS = 4
MAX_SAVES = 2  # in an input: each costs as much as a hundred steps
OPCODES = bytes.fromhex(  # those that do something, and queued ones above all
    "60 60 60 60 61 61 61 63 64 06 08 20 24 25 29 2F 2F 30 34 35 37 39 3D 3F 40 42 45 47 57 A0 A0"
    "A1 B0 C4 C5 C6 C8 CA CE E0 E4 E6 E7 E8 EA EC EF F8 F9"
)
CDBS = bytes.fromhex("00 03 12 1B 1E 25 28 28 28 2B 35 43 46 4A 51 52 55 5A A8 AC AD B9 BE")
AT = [at.offset for at in PortRegisters.registers.values()]
GENERIC = [at.offset for at in GenericRegisters.registers.values()]
KINDS = ("disk", "dvd", "empty", "")


class Machine:
    """The function under test; what a save has left behind is thrown away."""

    def __init__(self, engine: Engine, memory: GuestMemory) -> None:
        self.engine, self.memory = engine, memory
        self.puppets: list[PuppetDisk] = []
        self.ahci = Ahci(memory, engine, ports=PORTS)
        self.pulled: dict[int, Device] = {}
        self.saves = 0
        for port, kind in enumerate(KINDS):
            if kind:
                self.ahci.attach(port, self.drive(kind))
        self.ahci.plugged(PortSpace(), MmioSpace(), Line(lambda _level: None))
        self.ahci.config_write(4, 2, 6)

    def drive(self, kind: str) -> Device:
        puppet = PuppetDisk(disks[kind])
        self.puppets.append(puppet)
        if kind == "disk":
            return AtaDisk(puppet, self.engine)
        dvd = Dvd(puppet if kind == "dvd" else None, interface=PhysicalInterface.ATAPI)
        return PacketDevice(dvd, self.engine)

    def saved_and_restored(self) -> Machine:
        state = self.ahci.save()
        other = Machine(self.engine, self.memory)
        for port in self.pulled:
            other.pull(port)
        other.ahci.restore(state)
        other.saves = self.saves + 1
        return other

    def pull(self, port: int) -> None:
        drive = self.ahci.detach(port)
        if drive is not None:
            self.pulled[port] = drive

    def put_back(self) -> None:
        for port, drive in self.pulled.items():
            self.ahci.attach(port, drive)
        self.pulled.clear()

    def out(self, offset: int, value: int, width: int = 4) -> None:
        self.ahci.hba.mmio_write(offset, width, value)

    def port(self, number: int, register: int, value: int) -> None:
        self.out(0x100 + 0x80 * number + register, value)

    def start(self) -> None:
        """As a driver does: lists, FISes, and every port runs."""
        self.out(4, 2)
        for number in range(PORTS):
            self.port(number, 0x00, LISTS + 0x400 * number)
            self.port(number, 0x08, FISES + 0x100 * number)
            self.port(number, 0x30, 0xFFFFFFFF)
            self.port(number, 0x10, 0xFFFFFFFF)
            self.port(number, 0x14, 0xFFFFFFFF)
            self.port(number, 0x18, 0x11)

    def put(self, at: int, data: bytes) -> None:
        put(self.memory, at, data)

    def settle(self) -> None:
        settle(self.engine)

    def complete_all(self) -> None:
        complete_all(self.puppets, self.engine)


def command(machine: Machine, number: int, slot: int, source: Input) -> None:
    """A command that is right but for what the fuzzer bends."""
    shape, opcode = source.number("B"), OPCODES[source.number("B") % len(OPCODES)]
    if shape & 0xE0 == 0xE0:
        opcode = source.number("B")
    queued = 0x60 <= opcode <= 0x65
    count, lba = source.number("B") & 0x1F, source.number("B")
    features, counts = (count, slot << 3) if queued else (source.number("B"), count)
    if shape & 1:
        features, lba = source.number("H"), source.number("Q") & (1 << 48) - 1
        counts = source.number("H")
    low = lba.to_bytes(6, "little")
    fis = struct.pack(
        "<BBBB3sB3sBHBBI", 0x27, 0x80, opcode, features & 0xFF, low[:3], 0x40, low[3:],
        features >> 8, counts, 0, 0, shape >> 1 & 1,
    )  # fmt: skip
    if shape & 0x1C == 0x1C:
        fis = bytes([0x27, 0]) + bytes(13) + bytes([source.number("B")]) + bytes(4)
    cdb = bytearray(16)
    cdb[0] = CDBS[source.number("B") % len(CDBS)]
    for _ in range(shape >> 6):
        cdb[1 + source.number("B") % 11] = source.number("B")
    rows = []
    for _ in range(shape >> 2 & 7):
        size, at = source.number("B"), source.number("B")
        wild = size == 0xFF
        where = source.number("Q") if wild else DATA + (at << 4)
        rows.append(
            struct.pack(
                "<QII", where, 0, source.number("I") if wild else (size << 5) - 1 & 0x3FFFFF
            )
        )
    table = TABLES + TABLE_SIZE * slot
    machine.put(table, fis.ljust(64, b"\0") + bytes(cdb).ljust(64, b"\0") + b"".join(rows))
    flags = 5 | (0x20 if opcode == 0xA0 or shape & 2 else 0)
    entries = len(rows)
    if shape & 0x18 == 0x18:
        flags, entries, table = source.number("H"), source.number("H"), source.number("I")
    header = struct.pack("<HHIQ", flags, entries, 0, table)
    machine.put(LISTS + 0x400 * number + 32 * slot, header)
    if queued:
        machine.port(number, 0x34, 1 << slot)
    machine.port(number, 0x38, 1 << slot)


def step(machine: Machine, source: Input) -> Machine:
    """One thing that happens."""
    action = source.number("B")
    number = (0, 0, 0, 1, 1, 2, 3, 0)[action & 7]
    if action < 110:
        command(machine, number, source.number("B") & 31, source)
    elif action < 150:
        finish_one(machine.puppets, engine, source.number("B"))
    elif action < 165:
        machine.complete_all()
    elif action < 190:
        machine.port(number, AT[source.number("B") % len(AT)], source.number("I"))
    elif action < 200:
        machine.out(GENERIC[source.number("B") % len(GENERIC)], source.number("I"))
    elif action < 208:
        offset, width = source.number("H") & 0xFFF, 1 << action % 4
        machine.ahci.hba.mmio_read(offset, width)
        machine.out(offset, source.number("Q") & (1 << 8 * width) - 1, width)
    elif action < 216:
        machine.port(number, 0x18, source.number("I") & 0xF800001F)
    elif action < 224:
        machine.port(number, 0x2C, source.number("B") & 15)
    elif action < 230:
        machine.start()
    elif action < 234:
        offset, width = source.number("B"), 1 << action % 3
        machine.ahci.config_write(offset, width, source.number("I") & (1 << 8 * width) - 1)
    elif action < 240:
        machine.pull(number)
    elif action < 246:
        machine.put_back()
    elif action < 250:
        machine.out(4, 1)
        machine.start()
    elif machine.saves < MAX_SAVES:
        return machine.saved_and_restored()
    return machine


def check_usable(machine: Machine) -> None:
    """After a reset each drive is there, and each command on a disk of zeroes works."""
    machine.put_back()
    machine.complete_all()
    machine.ahci.reset()
    machine.complete_all()
    machine.settle()
    machine.ahci.config_write(4, 2, 6)
    machine.start()
    for puppet in machine.puppets:
        puppet.holds = lambda *_: False
    for number in range(3):
        port = machine.ahci.hba.ports[number]
        assert port.established and not port.tfd & 0x88, f"port {number}: {port.tfd:#x}"
        opcode = 0xA1 if number else 0xEC
        fis = bytes([0x27, 0x80, opcode]) + bytes(17)
        machine.put(TABLES, fis.ljust(0x80, b"\0") + struct.pack("<QII", DATA, 0, 511))
        machine.put(LISTS + 0x400 * number, struct.pack("<HHIQ", 5, 1, 0, TABLES))
        machine.port(number, 0x38, 1)
        machine.settle()
        assert not port.ci and not port.tfd & 1, f"port {number} is not usable"


def one_input(data: bytes) -> None:
    """One guest's life."""
    source = Input(data)
    machine = Machine(engine, guest_memory())
    machine.start()
    while source.more:
        machine = step(machine, source)
    check_usable(machine)


disks = {
    "disk": RamDisk(64 << 10),
    "dvd": RamDisk(64 << 10, sector_size=2048),
    "empty": RamDisk(2048, sector_size=2048),
}
engine = Engine(workers=0)

if __name__ == "__main__":
    device.guest_log = RationedLog(device.log, burst=1 << 60)  # no error is left out
    ncq.guest_log = RationedLog(ncq.log, burst=1 << 60)
    # A slow input is a find. Long ones from the start: a machine costs as much as many steps.
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 9}", "-len_control=0")
