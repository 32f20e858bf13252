"""Fuzz the IDE function: port I/O and PCI configuration, tables and packets in memory, the order in
which disks complete, and save and restore in between.

The input is a guest with two channels of drives: disks, DVD drives with and without a medium, and
empty places. Whatever it does, no exception comes out, nothing is logged as an error, the engine is
idle again in bounded time, and after a reset no drive works.

    python -m fuzz.fuzz_ide -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["drivebay.controllers.ide", "drivebay.ata", "drivebay.platform", "drivebay.scsi"]
):
    from drivebay.ata import device as ata_device
    from drivebay.ata.device import Device
    from drivebay.ata.disk import AtaDisk
    from drivebay.ata.packet import PacketDevice
    from drivebay.controllers.ide import PiixIde
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.platform.logs import RationedLog
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.mmio import MmioSpace
    from drivebay.platform.ports import PortSpace
    from drivebay.scsi.dvd import Dvd, PhysicalInterface
    from drivebay.testing import PuppetDisk
    from fuzz.support import Input, complete_all, finish_one, fuzz, guest_memory, put, settle

TABLE, PACKETS, DATA = 0x1000, 0x2000, 0x4000
BUS_MASTER = 0xC000
COMMAND, CONTROL, INT13 = (0x1F0, 0x170), (0x3F6, 0x376), (0x1E0, 0x160)
BSY_DRQ_ERR = 0x89
MAX_SAVES = 2  # in an input: each costs as much as a hundred steps
LAYOUTS = (  # a disk, a DVD, an empty drive, nothing: channel 0, then channel 1
    ("disk", "dvd", "empty", ""),
    ("disk", "", "dvd", "disk"),
    ("dvd", "", "", "disk"),
    ("", "empty", "disk", "disk"),
)
OPCODES = bytes.fromhex(  # those that do something, more often than others
    "06 08 20 24 25 27 29 2F 30 34 35 37 39 3D 3F 40 42 45 47 57 60 70 90 91 A0 A0 A0 A1 B0"
    "C4 C5 C6 C8 CA CE E0 E4 E5 E6 E7 E8 EA EC EF F8 F9"
)
CDBS = bytes.fromhex(
    "00 03 12 1B 1E 25 28 28 28 2B 35 3C 42 43 46 4A 51 52 55 5A A0 A8 AC AD B9 BE"
)


class Machine:
    """The function under test; what a save has left behind is thrown away."""

    def __init__(self, engine: Engine, memory: GuestMemory, layout: tuple[str, ...]) -> None:
        self.engine, self.memory, self.layout = engine, memory, layout
        self.puppets: list[PuppetDisk] = []
        self.ports = PortSpace()
        self.ide = PiixIde(
            memory, (Line(lambda _level: None), Line(lambda _level: None)), switchable=True
        )
        for place, kind in enumerate(layout):
            self.attach(place, kind)
        self.ide.plugged(self.ports, MmioSpace(), Line(lambda _level: None))
        self.pulled: list[tuple[int, Device]] = []
        self.saves = 0

    def attach(self, place: int, kind: str) -> None:
        if not kind:
            return
        puppet = PuppetDisk(disks[place])
        if kind != "empty":
            self.puppets.append(puppet)
        if kind == "disk":
            drive: Device = AtaDisk(puppet, self.engine)
        else:
            dvd = Dvd(puppet if kind == "dvd" else None, interface=PhysicalInterface.ATAPI)
            drive = PacketDevice(dvd, self.engine)
        self.ide.attach(place >> 1, place & 1, drive)

    def enable(self) -> None:
        self.ide.config_write(0x20, 4, BUS_MASTER)
        self.ide.config_write(4, 2, 5)

    def saved_and_restored(self) -> Machine:
        state = self.ide.save()
        self.ide.unplugged()
        for place, drive in self.pulled:
            self.ide.attach(place >> 1, place & 1, drive)
        other = Machine(self.engine, self.memory, self.layout)
        for place, _ in self.pulled:
            other.pull(place)
        other.ide.restore(state)
        other.saves = self.saves + 1
        return other

    def pull(self, place: int) -> None:
        drive = self.ide.detach(place >> 1, place & 1)
        if drive is not None:
            self.pulled.append((place, drive))

    def put_back(self) -> None:
        for place, drive in self.pulled:
            if drive.wire is None:
                self.ide.attach(place >> 1, place & 1, drive)
        self.pulled = [each for each in self.pulled if each[1].wire is None]

    def out(self, port: int, value: int, width: int = 1) -> None:
        self.ports.write(port, width, value & (1 << 8 * width) - 1)

    def put(self, at: int, data: bytes) -> None:
        put(self.memory, at, data)

    def settle(self) -> None:
        settle(self.engine)

    def complete_all(self) -> None:
        complete_all(self.puppets, self.engine)


def registers(machine: Machine, base: int, source: Input) -> None:
    """A command that is right but for what the fuzzer bends."""
    shape, opcode = source.number("B"), OPCODES[source.number("B") % len(OPCODES)]
    machine.out(base + 6, 0x40 | shape & 0x10 if shape & 1 else source.number("B"))
    for register in range(1, 6):
        if shape & 2:
            machine.out(base + register, source.number("B") if shape & 4 else 0)
        value = source.number("B")
        machine.out(base + register, value if register < 4 or shape & 8 else 0)
    machine.out(base + 7, source.number("B") if shape & 0xE0 == 0xE0 else opcode)


def packet(machine: Machine, base: int, source: Input) -> None:
    """PACKET with a CDB that is nearly right."""
    shape = source.number("B")
    machine.out(base + 6, shape & 0x10)
    machine.out(base + 1, shape & 3)
    machine.out(base + 4, source.number("B"))
    machine.out(base + 5, source.number("B") if shape & 4 else 0xFF)
    machine.out(base + 7, 0xA0)
    cdb = bytearray(12)
    cdb[0] = CDBS[source.number("B") % len(CDBS)]
    for _ in range(shape >> 5):
        cdb[1 + source.number("B") % 11] = source.number("B")
    machine.ports.write_string(base, 2, memoryview(cdb))


def table(machine: Machine, source: Input) -> None:
    """A region table, and the bus master started on it."""
    shape, rows = source.number("B"), []
    for _ in range(shape & 15):
        size = source.number("H") & 0xFFF if shape & 16 else 512
        at = source.number("H") if shape & 32 else DATA + (source.number("B") << 4)
        rows.append(struct.pack("<IHH", at, size, 0))
    if rows and shape & 64:
        rows[-1] = rows[-1][:7] + b"\x80"
    at = source.number("I") if shape & 128 else TABLE
    machine.put(at & 0x3FFFF, b"".join(rows))
    base = BUS_MASTER + 8 * (source.number("B") & 1)
    machine.out(base, 0)
    machine.out(base + 4, at, 4)
    machine.out(base, 1 | source.number("B") & 8)


def enlightened(machine: Machine, source: Input) -> None:
    """An INT 13h packet and the write that begins it."""
    fields = [
        source.number("B"),
        source.number("B"),
        0,
        0,
        source.number("H"),
        0,
        source.number("B"),
    ]
    fields += [source.number("H"), TABLE, source.number("H"), 0]
    if fields[0] & 1:
        fields[0], fields[1] = OPCODES[fields[0] % len(OPCODES)], fields[1] & 0x5F
    at = PACKETS + source.number("B")
    machine.put(at, struct.pack("<BBBBIHHIIHH", *fields))
    machine.out(INT13[source.number("B") & 1], at, 4)


def step(machine: Machine, source: Input) -> Machine:
    """One thing that happens."""
    action = source.number("B")
    base = COMMAND[action & 1]
    if action < 50:
        registers(machine, base, source)
    elif action < 90:
        packet(machine, base, source)
    elif action < 120:
        table(machine, source)
    elif action < 150:
        finish_one(machine.puppets, engine, source.number("B"))
    elif action < 170:
        machine.complete_all()
    elif action < 190:
        width = 1 << action % 3
        data = bytearray(source.number("H") * width & 0x1FFF & -width)
        if action & 4:
            machine.ports.read_string(base, width, memoryview(data))
        else:
            machine.ports.write_string(base, width, memoryview(data))
    elif action < 215:
        port, width = source.number("H") & 0xFFF, 1 << action % 3
        if port >= 0x400:
            port = BUS_MASTER + (port & 15)
        machine.ports.read(port, width)
        machine.ports.write(port, width, source.number("I") & (1 << 8 * width) - 1)
    elif action < 225:
        machine.out(CONTROL[action & 1], source.number("B"))
    elif action < 232:
        enlightened(machine, source)
    elif action < 238:
        offset, width = source.number("B"), 1 << action % 3
        machine.ide.config_read(offset, width)
        machine.ide.config_write(offset, width, source.number("I") & (1 << 8 * width) - 1)
    elif action < 241:
        machine.enable()
    elif action < 244:
        machine.pull(action & 3)
    elif action < 248:
        machine.put_back()
    elif action < 250:
        machine.ide.reset()
        machine.enable()
    elif machine.saves < MAX_SAVES:
        return machine.saved_and_restored()
    return machine


engine = Engine(workers=0)
disks = [RamDisk(1 << 17) for _ in range(4)]


def one_input(data: bytes) -> None:
    source = Input(data)
    machine = Machine(engine, guest_memory(), LAYOUTS[source.number("B") % len(LAYOUTS)])
    machine.enable()
    while source.more:
        machine = step(machine, source)
    machine.complete_all()
    machine.put_back()
    machine.ide.reset()
    machine.enable()
    machine.settle()
    for channel in machine.ide.channels:
        for unit, drive in enumerate(channel.drives):
            machine.out(COMMAND[channel.number] + 6, unit << 4)
            status = machine.ports.read(CONTROL[channel.number], 1)
            if drive is not None and (status & BSY_DRQ_ERR or drive.busy):
                raise AssertionError(f"{channel.number}.{unit} works after a reset: {status:#x}")
        hold = channel.int13.hold
        if hold is not None:
            raise AssertionError("a CPU waits after a reset")
    for disk in disks:
        disk._resize_listeners.clear()


if __name__ == "__main__":
    ata_device.guest_log = RationedLog(ata_device.log, burst=1 << 60)  # no error is left out
    # A slow input is a find. Long ones from the start: a machine costs as much as many steps.
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 9}", "-len_control=0")
