"""`exits`: how often a guest touches a controller to read 4 or 64 KiB, and what each time takes.

Each access of a guest's is an exit where a virtual machine monitor runs it. They are counted and
timed between our drivers and the controllers, all in this process, and between SeaBIOS' drivers and
a PC, whose CPU is unicorn. The disk is memory. The figure is microseconds of Python for an access
with all that it sets off, as CPU time, beside an access to a port that does nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from benchmarks.report import Result, compare
from benchmarks.run import Run, Sample, last_cpu, on_cpu
from drivebay.ata.disk import AtaDisk
from drivebay.cli.boot_pc import seabios
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.storvsp import StorVsp
from drivebay.controllers.storvsp.storvsp import SCSI
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import IdeDriver, Via
from drivebay.drivers.nvme import NvmeDriver
from drivebay.drivers.pci import PciAddress, PciConfig
from drivebay.drivers.storvsc import StorVsc, VmbusDriver
from drivebay.drivers.virtio_blk import RegisterBlockDriver, VirtioBlk, VirtioBlkPci
from drivebay.hosts.emulator import Emulator
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import ConfigMechanism1, PciBus, PciFunction
from drivebay.platform.ports import PortRegion
from drivebay.platform.vmbus_bus import VmBus
from drivebay.scsi.cdb import Read10
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from drivebay.suspend import run as run_now

RAM_SIZE = 16 << 20
DISK_SIZE = 8 << 20
ARENA = 1 << 20
REGISTERS, PORTS = 0xFE000000, 0xC000
BASE = 0x10001000
AT = PciAddress(3, 0)
SIZES = {"4k": 8, "64k": 128}
"""Sectors of a read."""
READS = 500
BOOT_READS = 64
NOTHING = 0x300
EMPTY = "a port that does nothing"


class Meter:
    """Counts accesses and the seconds of this CPU that they take, their devices' work included."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def call(self, access: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        try:
            return access(*arguments)
        finally:
            self.seconds += time.thread_time() - start
            self.count += 1

    def watch(self, emulator: Emulator) -> None:
        """From now on all accesses come here. A string of items from one port is one."""
        names = ("io_read", "io_write", "io_read_string", "io_write_string")
        for name in (*names, "mmio_read", "mmio_write"):
            setattr(emulator, name, partial(self.call, getattr(emulator, name)))


class Ports:
    """An emulator's ports, as drivers have them."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.read, self.write_string = emulator.io_read, emulator.io_write_string

    def write(self, port: int, width: int, value: int) -> None:
        self.emulator.io_write(port, width, value)

    def read_string(self, port: int, width: int, buffer: memoryview) -> None:
        buffer[:] = self.emulator.io_read_string(port, width, len(buffer) // width)


class Mmio:
    """And its registers in memory."""

    def __init__(self, emulator: Emulator) -> None:
        self.read, self.write = emulator.mmio_read, emulator.mmio_write


class Nothing(PortRegion):
    """A port that takes what comes."""

    size = 1

    def port_write(self, offset: int, width: int, value: int) -> None:
        """Nothing."""

    def port_read(self, offset: int, width: int) -> int:
        return 0


Read = Callable[[int], object]
"""Reads so many sectors."""


class Route(NamedTuple):
    """A way to read, which is metered."""

    meter: Meter
    read: Read
    engine: Engine


class Machine:
    """A board with one function, whose BARs are placed, and metered ways to it."""

    def __init__(self) -> None:
        self.engine = Engine(workers=0)
        self.meter = Meter()
        self.board = Board(self.engine, GuestMemory.of_size(RAM_SIZE))
        self.level = False
        self.bus = PciBus(self.board.ports, self.board.mmio, self._interrupt)
        self.board.ports.map(0xCF8, ConfigMechanism1(self.bus))
        emulator = Emulator(self.board)
        self.meter.watch(emulator)
        self.ports: Any = Ports(emulator)
        self.mmio: Any = Mmio(emulator)
        self.arena = Arena(self.board.memory, ARENA, RAM_SIZE - ARENA)
        self.poll = partial(self.engine.turn, 0)

    def _interrupt(self, _line: int, level: bool) -> None:
        self.level = level

    def plug(self, function: PciFunction) -> PciConfig:
        self.bus.plug(*AT, function)
        config = PciConfig(self.board.ports)
        config.place(AT, PORTS, REGISTERS)
        return config

    def route(self, read: Read) -> Route:
        return Route(self.meter, read, self.engine)


def _ide(via: Via, disk: Disk) -> Route:
    machine = Machine()
    board = machine.board
    ide = PiixIde(board.memory, (board.line(14), board.line(15)), PIIX4)
    ide.attach(0, 0, AtaDisk(disk, machine.engine))
    machine.bus.plug(1, 0, ide)
    driver = IdeDriver(
        machine.ports,
        machine.arena,
        poll=machine.poll,
        raised=lambda number: board.line(14 + number).level,
    )
    drive = driver.disk(0, 0)
    drive.set_multiple(16)
    return machine.route(lambda sectors: drive.read(0, sectors, via))


def _ahci(disk: Disk) -> Route:
    machine = Machine()
    ahci = Ahci(machine.board.memory, machine.engine)
    ahci.attach(0, AtaDisk(disk, machine.engine))
    base = machine.plug(ahci).address(AT, 5)
    driver = AhciDriver(
        machine.mmio, base, machine.arena, poll=machine.poll, raised=lambda: machine.level
    )
    drive = driver.disk(0)
    return machine.route(lambda sectors: drive.read(0, sectors))


def _nvme(in_memory: bool, disk: Disk) -> Route:
    machine = Machine()
    nvme = Nvme(machine.board.memory, machine.engine, queues=1)
    nvme.add(1, disk)
    base = machine.plug(nvme).address(AT, 0)
    driver = NvmeDriver(machine.mmio, base, machine.arena, poll=machine.poll)
    if in_memory:
        driver.use_doorbell_buffers()
    namespace = driver.namespace(1)
    return machine.route(lambda sectors: namespace.read(0, sectors))


def _virtio(machine: Machine, driver: RegisterBlockDriver) -> Route:
    driver.ring().want_interrupt()
    return machine.route(lambda sectors: driver.read(0, 512 * sectors))


def _virtio_mmio(disk: Disk) -> Route:
    machine = Machine()
    device, line = BlockDevice(disk, machine.engine), machine.board.line(1)
    machine.board.mmio.map(BASE, MmioTransport(device, machine.board.memory, line))
    return _virtio(machine, VirtioBlk(machine.mmio, BASE, machine.arena, poll=machine.poll))


def _virtio_pci(messages: bool, disk: Disk) -> Route:
    machine = Machine()
    machine.plug(VirtioPci(BlockDevice(disk, machine.engine), machine.board.memory))
    driver = VirtioBlkPci(
        machine.ports,
        machine.mmio,
        AT,
        machine.arena,
        poll=machine.poll,
        messages=[(0xFEE00000, 0x40 + vector) for vector in range(2)] if messages else (),
    )
    return _virtio(machine, driver)


def _storvsp(disk: Disk) -> Route:
    """An access is a hypercall: one for each signal."""
    engine, meter = Engine(workers=0), Meter()
    target = Target(engine)
    target.add(0, ScsiDisk(disk))
    memory = GuestMemory.of_size(RAM_SIZE)

    def send(message: bytes) -> None:
        guest.receive(message)

    bus = VmBus(memory, send, lambda channel, vp: None)
    signal = partial(meter.call, bus.signal)
    guest = VmbusDriver(bus.message, signal, lambda: engine.turn(0))
    StorVsp(target, memory, engine, instance=uuid.UUID(int=1)).attach(bus)
    guest.connect()
    (offer,) = guest.find(SCSI)
    driver = StorVsc(guest, offer, Arena(memory, 0, RAM_SIZE))
    driver.run(bytes(6))  # TEST UNIT READY: an attention comes first

    def read(sectors: int) -> None:
        cdb = Read10(logical_block_address=0, transfer_length=sectors).pack()
        driver.execute(cdb, 512 * sectors)

    return Route(meter, read, engine)


ROUTES: dict[str, Callable[[Disk], Route]] = {
    "ide-pio": partial(_ide, Via.PIO),
    "ide-multiple": partial(_ide, Via.MULTIPLE),
    "ide-dma": partial(_ide, Via.DMA),
    "ide-int13": partial(_ide, Via.INT13),
    "ahci": _ahci,
    "nvme": partial(_nvme, False),
    "nvme-doorbells-in-memory": partial(_nvme, True),
    "virtio-blk-mmio": _virtio_mmio,
    "virtio-blk-pci": partial(_virtio_pci, False),
    "virtio-blk-pci-messages": partial(_virtio_pci, True),
    "storvsp": _storvsp,
}
"""Our drivers, told of the end by an interrupt."""


def measure(run: Run) -> Iterator[Result]:
    """Our drivers, then SeaBIOS'."""
    with on_cpu(last_cpu()):
        for size, sectors in SIZES.items():
            for name, make in ROUTES.items():
                disk = RamDisk(DISK_SIZE)
                yield _driver(run, f"exits/read-{size}-{name}", make(disk), sectors)
                disk.close()
        firmware = _firmware()
        for size, sectors in SIZES.items():
            for name, attach in CONTROLLERS.items():
                title = f"exits/seabios-read-{size}-{name}"
                yield _seabios(run, title, firmware, attach, sectors)


def _driver(run: Run, name: str, route: Route, sectors: int) -> Result:
    count = round(READS * run.scale)
    accesses = []

    def ours() -> Sample:
        meter = route.meter
        meter.count, meter.seconds = 0, 0.0
        for _ in range(count):
            route.read(sectors)
        accesses.append(meter.count / count)
        return Sample(meter.seconds / max(meter.count, 1) * 1e6)

    route.read(sectors)
    result = _compare(run, name, ours, accesses)
    route.engine.close()
    return result


def _compare(run: Run, name: str, ours: Callable[[], Sample], accesses: list[float]) -> Result:
    figures = run.alternate(name, ours, _nothing)
    per_read = sorted(accesses)[len(accesses) // 2]
    extra = {"accesses": round(per_read, 2), "request_us": per_read * figures[0].median}
    return compare(name, "us", figures, EMPTY, extra=extra)


def _nothing() -> Sample:
    """The peer."""
    machine = Machine()
    machine.board.ports.map(NOTHING, Nothing())
    for _ in range(READS):
        machine.ports.write(NOTHING, 1, 0)
    machine.engine.close()
    return Sample(machine.meter.seconds / machine.meter.count * 1e6)


# -- SeaBIOS ---------------------------------------------------------------------------------------

BEGIN, END = 0xF0, 0xF1
BUFFER_SEGMENT = 0x2000
BOOT = (
    "31C0 8ED8 8EC0 8ED0 BC007C FB"  # ds = es = ss = 0; sp = 7C00h; sti
    " B9 {count} E6F0"  # cx = reads; out BEGIN
    " 5152 BE 407C B442 CD13 5A59"  # again: push; si = packet; ah = 42h; int 13h; pop
    " 7208 E2F1 E6F1 30C0 E6F4"  # jc failed; loop again; out END; al = 0: exit
    " B001 E6F4"  # failed: exit with 1
)
PACKET_AT = 0x40


def _boot_sector(sectors: int) -> bytes:
    """Reads `BOOT_READS` times by INT 13h, AH=42h (EDD-3 section 2.3.1)."""
    code = bytes.fromhex(BOOT.format(count=BOOT_READS.to_bytes(2, "little").hex()))
    packet = bytes((16, 0, sectors, 0)) + (BUFFER_SEGMENT << 16).to_bytes(4, "little")
    return (code.ljust(PACKET_AT, b"\0") + packet + bytes(8)).ljust(510, b"\0") + b"\x55\xaa"


class Marks(PortRegion):
    """Two ports: counting begins and ends."""

    size = 2

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.found = 0, 0.0

    def port_write(self, offset: int, width: int, value: int) -> None:
        meter = self._meter
        if offset == 0:
            meter.count, meter.seconds = -1, 0.0  # this access is none of theirs
        else:
            self.found = meter.count, meter.seconds

    def port_read(self, offset: int, width: int) -> int:
        return 0


def _on_ide(pc: Any, disk: Disk) -> None:
    ide = PiixIde(pc.memory, (pc.line(14), pc.line(15)))
    ide.attach(0, 0, AtaDisk(disk, pc.engine))
    pc.bus.plug(1, 1, ide)


def _on_ahci(pc: Any, disk: Disk) -> None:
    ahci = Ahci(pc.memory, pc.engine)
    ahci.attach(0, AtaDisk(disk, pc.engine))
    pc.plug(ahci)


def _on_nvme(pc: Any, disk: Disk) -> None:
    nvme = Nvme(pc.memory, pc.engine)
    nvme.add(1, disk)
    pc.plug(nvme)


def _on_virtio(pc: Any, disk: Disk) -> None:
    pc.plug(VirtioPci(BlockDevice(disk, pc.engine), pc.memory))


CONTROLLERS: dict[str, Callable[[Any, Disk], None]] = {
    "ide-pio": _on_ide,
    "ahci": _on_ahci,
    "nvme": _on_nvme,
    "virtio-blk-pci": _on_virtio,
}


def _firmware() -> bytes:
    with open(seabios(), "rb") as file:
        return file.read()


def _seabios(
    run: Run, name: str, firmware: bytes, attach: Callable[[Any, Disk], None], sectors: int
) -> Result:
    accesses = []

    def ours() -> Sample:
        count, seconds = _boot(firmware, attach, sectors)
        accesses.append(count / BOOT_READS)
        return Sample(seconds / count * 1e6)

    return _compare(run, name, ours, accesses)


def _boot(firmware: bytes, attach: Callable[[Any, Disk], None], sectors: int) -> tuple[int, float]:
    """How many accesses all reads of a boot sector come to, and the seconds of them."""
    from drivebay.hosts.emulator.unicorn_cpu import End, X86Cpu
    from drivebay.machines.pc import Pc

    engine, meter, disk = Engine(workers=0), Meter(), RamDisk(DISK_SIZE)
    run_now(disk.write(0, [memoryview(_boot_sector(sectors))]))
    pc: Any = Pc(engine, 32 << 20, firmware=firmware)
    attach(pc, disk)
    marks = Marks(meter)
    pc.ports.map(BEGIN, marks)
    cpu = X86Cpu(pc)
    meter.watch(cpu.emulator)
    if cpu.run(60) is not End.EXITED or pc.exit_status:
        raise RuntimeError("the boot sector has not read")
    engine.close()
    return marks.found
