"""Fuzz the virtio block and SCSI devices: arbitrary rings, indirect tables and register accesses.

The input is a guest: it says which device and which ring it wants, where the parts of it are, fills
its memory, and writes registers. Whatever it does, no exception comes out, nothing is logged as an
error, and the engine is idle again in bounded time.

    python -m fuzz.fuzz_virtio_ring -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.controllers", "drivebay.platform"]):
    from drivebay.controllers.virtio.block import BlockDevice
    from drivebay.controllers.virtio.mmio import MMIO_SIZE, MmioTransport
    from drivebay.controllers.virtio.registers import MmioRegisters, RingFeature
    from drivebay.controllers.virtio.scsi import ScsiDevice
    from drivebay.controllers.virtio.scsi_registers import ScsiAnswer, ScsiRequest
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.platform.engine import Engine
    from drivebay.platform.interrupts import Line
    from drivebay.scsi.disk import ScsiDisk
    from drivebay.scsi.dvd import Dvd
    from drivebay.scsi.target import Target
    from fuzz.support import RAM, Input, fuzz, guest_memory, settle

DESCRIPTORS, DRIVER, DEVICE = 0x1000, 0x2000, 0x3000  # where rings usually are
HEADERS, TABLES = 0x4000, 0x5000
NEXT, WRITE, INDIRECT, AVAIL, USED = 1, 2, 4, 1 << 7, 1 << 15
AT = {name: at.offset for name, at in MmioRegisters.registers.items()}
CONTROL, EVENT = 0, 1
QUEUES = (2, 2, CONTROL, EVENT)
SIZES = (1, 2, 4, 8, 16, 3, 256)


class Machine:
    """The device under test, new for each input, on an engine that is not."""

    def __init__(self, engine: Engine, disk: RamDisk, queue: int | None) -> None:
        self.engine = engine
        self.memory = guest_memory()
        self.scsi, self.queue = queue is not None, queue or 0
        self.device: BlockDevice | ScsiDevice
        if self.scsi:
            self.target = Target(engine)
            self.target.add(0, ScsiDisk(disk))
            self.target.add(1, Dvd(disk))
            self.device = ScsiDevice(self.target, engine)
        else:
            self.device = BlockDevice(disk, engine, queues=2)
        self.transport = MmioTransport(self.device, self.memory, Line(lambda level: None))
        self.packed, self.size = False, 1
        self.slot = self.offered = self.requests = 0
        self.wrap = True

    def put(self, at: int, data: bytes) -> None:
        self.memory.view(at, len(data))[:] = data

    def place(self, rows: list[tuple[int, int, int]], at: int) -> None:
        """A table of descriptors for either ring: these rows, each linked to the next."""
        for n, (address, length, flags) in enumerate(rows):
            last = (0, flags) if self.packed else (flags, n + 1)
            self.put(at + 16 * n, struct.pack("<QIHH", address, length, *last))

    def offer(self, rows: list[tuple[int, int, int]]) -> None:
        """Put a chain into the ring as a driver would, were it not for what is in it."""
        head = self.slot
        for address, length, flags in rows:
            mark = (AVAIL if self.wrap else USED) if self.packed else 0
            slot, self.slot = self.slot, (self.slot + 1) % self.size
            self.wrap ^= self.slot == 0
            last = (head, flags ^ mark) if self.packed else (flags, self.slot)
            self.put(DESCRIPTORS + 16 * slot, struct.pack("<QIHH", address, length, *last))
        if not self.packed:
            self.put(DRIVER + 4 + 2 * (self.offered % self.size), struct.pack("<H", head))
            self.offered = (self.offered + 1) & 0xFFFF
            self.put(DRIVER + 2, struct.pack("<H", self.offered))

    def set(self, register: str, value: int) -> None:
        self.transport.mmio_write(AT[register], 4, value & 0xFFFFFFFF)

    def set_up(self, features: int, size: int, addresses: tuple[int, ...]) -> None:
        """Initialise it properly, but for where the ring is and how large."""
        self.packed, self.size = bool(features >> RingFeature.RING_PACKED & 1), size
        self.set("Status", 3)
        for word in (0, 1):
            self.set("DriverFeaturesSel", word)
            self.set("DriverFeatures", features >> 32 * word)
        self.set("Status", 11)
        self.set("QueueSel", self.queue)
        self.set("QueueNum", size)
        for area, address in zip(("Desc", "Driver", "Device"), addresses, strict=True):
            self.set(f"Queue{area}Low", address)
            self.set(f"Queue{area}High", address >> 32)
        self.set("QueueReady", 1)
        self.set("Status", 15)

    def settle(self) -> None:
        runners = self.device._runners.values()
        settle(self.engine, lambda: not any(runner._tasks for runner in runners))


def address(source: Input) -> int:
    """Mostly RAM, mostly aligned; sometimes anything."""
    kind = source.number("B")
    if kind == 0xFF:
        return source.number("Q")
    return source.number("H") << 4 if kind & 1 else source.number("I")


def descriptor(source: Input) -> bytes:
    """A descriptor of either ring: its flags are the last two bytes or the two before."""
    at, length = address(source), source.number("H")
    a, b = source.number("H"), source.number("H")
    return struct.pack("<QIHH", at, length & 0x1FFF, a, b)


def fill(machine: Machine, source: Input) -> None:
    """Some structures, somewhere: descriptors, ring entries, request headers, raw bytes."""
    kind, at, count = source.number("B") % 5, source.number("H"), source.number("B") % 24
    if kind == 0:
        data = b"".join(descriptor(source) for _ in range(count))
    elif kind == 1:
        data = struct.pack(f"<{count}H", *(source.number("B") for _ in range(count)))
    elif kind == 2:
        data = struct.pack("<IIQ", source.number("B"), 0, source.number("H"))
    elif kind == 3:
        data = struct.pack("<QII", source.number("H"), source.number("H"), source.number("B"))
    else:
        data = source.take(count)
    for view in machine.memory.views(0, 2 * RAM):
        part = data[: max(0, len(view) - at)]
        view[at : at + len(part)] = part
        at, data = max(0, at - len(view)), data[len(part) :]


def command(machine: Machine, source: Input) -> list[tuple[int, int, int]]:
    """What a SCSI driver lays out: a command, a function or room for an event."""
    at = HEADERS + 256 * (machine.requests % 16)
    answer = at + 128
    if machine.queue == EVENT:
        return [(at, 16, WRITE)]
    lun = bytes([1, 0, 0x40, source.number("B") & 3, 0, 0, 0, 0])
    if machine.queue == CONTROL:
        asked = struct.pack("<II8sQ", 0, source.number("B") & 7, lun, source.number("B") & 3)
        machine.put(at, asked)
        return [(at, len(asked), 0), (answer, 1, WRITE)]
    opcode, tag = source.number("B"), source.number("B") & 3
    lba, count = source.number("B") & 0x7F, source.number("B") & 7
    cdb = struct.pack(">BBIBHB", opcode, 0, lba, 0, count, 0)
    machine.put(at, ScsiRequest(lun, tag, source.number("B") & 3, 0, 0).pack() + cdb.ljust(32))
    data = (address(source), 512 * count, 0 if opcode & 2 else WRITE)
    rows = [(at, ScsiRequest.size + 32, 0), (answer, ScsiAnswer.size + 96, WRITE)]
    rows.insert(1 if opcode & 2 else 2, data)
    return rows


def offer_command(machine: Machine, source: Input) -> None:
    """A command that is right but for what the fuzzer bends."""
    shape = source.number("B")
    rows = [(at, length, flags | NEXT) for at, length, flags in command(machine, source)]
    machine.requests += 1
    rows[-1] = (rows[-1][0], rows[-1][1], rows[-1][2] & ~NEXT)
    if shape & 4:
        bent = source.number("B") % len(rows)
        rows[bent] = (rows[bent][0], source.number("I"), source.number("H") & 0x7F)
    if shape & 8:
        machine.target.remove(1)
        machine.target.add(1, Dvd())
    if shape & 16:
        table = TABLES + 256 * (machine.requests % 16)
        machine.place(rows, table)
        rows = [(table, 16 * len(rows), INDIRECT)]
    machine.offer(rows)
    if shape & 32:
        machine.set("QueueNotify", machine.queue)


def request(machine: Machine, source: Input) -> None:
    """A request that is right but for what the fuzzer bends: rows, lengths, flags, addresses."""
    if machine.scsi:
        offer_command(machine, source)
        return
    shape, kind = source.number("B"), source.number("B")
    header = HEADERS + 16 * (machine.requests % 64)
    table = TABLES + 256 * (machine.requests % 16)
    machine.requests += 1
    sector = source.number("B") if kind < 0xF0 else source.number("Q")
    machine.put(header, struct.pack("<IIQ", kind & 15 if kind < 0xF0 else kind, 0, sector))
    to_device = 0 if kind & 1 else WRITE  # OUT, DISCARD and WRITE_ZEROES are odd
    rows = [(header, 16, 0)]
    for _ in range(shape & 3):
        units = source.number("B")
        length = 512 * (units & 7) if units < 0x80 else units & 0x7F
        rows.append((address(source), length, to_device))
    rows.append((header + 15, 1, WRITE))
    rows = [(at, length, flags | NEXT) for at, length, flags in rows]
    rows[-1] = (rows[-1][0], 1, WRITE)
    if shape & 4:
        bent = source.number("B") % len(rows)
        rows[bent] = (rows[bent][0], source.number("I"), source.number("H") & 0x7F)
    if shape & 8:
        del rows[source.number("B") % len(rows)]
    if shape & 16 and rows:
        machine.place(rows, table)
        rows = [(table, 16 * len(rows), INDIRECT)]
    machine.offer(rows)
    if shape & 32:
        machine.set("QueueNotify", 0)


def step(machine: Machine, source: Input) -> None:
    """One thing a guest does while the device runs."""
    action = source.number("B")
    if action < 60:
        request(machine, source)
    elif action < 100:
        fill(machine, source)
    elif action < 190:
        machine.set("QueueNotify", action % 3)
    elif action < 200:
        machine.settle()
    elif action < 230:
        offset, width = source.number("H") % MMIO_SIZE, 1 << action % 4
        machine.transport.mmio_write(offset, width, source.number("Q"))
        machine.transport.mmio_read(offset, width)
    elif action < 250:
        machine.set("QueueReady", action & 1)
    else:
        machine.set("Status", 0)


engine = Engine(workers=0)
disk = RamDisk(1 << 16)


def one_input(data: bytes) -> None:
    source = Input(data)
    choice = source.number("B")
    machine = Machine(engine, disk, QUEUES[source.number("B") & 3] if choice & 8 else None)
    features = machine.device.features
    if choice & 1:
        features &= ~(1 << RingFeature.RING_PACKED)
    if choice & 2:
        features &= ~(1 << RingFeature.EVENT_IDX)
    if choice & 4:  # a ring where rings usually are
        addresses = (DESCRIPTORS, DRIVER, DEVICE)
    else:
        addresses = (address(source), address(source), address(source))
    for _ in range(choice >> 4):
        fill(machine, source)
    machine.set_up(features, SIZES[source.number("B") % len(SIZES)], addresses)
    while source.more:
        step(machine, source)
    machine.settle()
    machine.set("Status", 0)
    machine.settle()
    if machine.transport.mmio_read(AT["Status"], 4):
        raise AssertionError("the device does not reset")
    disk._resize_listeners.clear()


if __name__ == "__main__":
    # A slow input is a find.
    fuzz(one_input, "-timeout=10", f"-max_len={1 << 11}", "-len_control=20")
