"""What hostile guests do to an IDE controller: a channel's ports by hand, and disks to break."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Final

from drivebay.ata.device import Device
from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.filters.base import Filter
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.ports import Hold
from drivebay.scsi.dvd import Dvd, PhysicalInterface
from drivebay.suspend import Resume, Suspension, Workers, run

from .support import BUS_MASTER_PORT, COMMAND_PORTS, CONTROL_PORTS, INT13_PORTS, IRQS, Bench, Place

BSY, DRDY, DF, DSC, DRQ, ERR = 0x80, 0x40, 0x20, 0x10, 0x08, 0x01
ICRC, UNC, MC, IDNF, ABRT = 0x80, 0x40, 0x20, 0x10, 0x04
REST = DRDY | DSC
LBA, DEV = 0x40, 0x10
SRST, NIEN, HOB = 0x04, 0x02, 0x80
START, TO_MEMORY = 0x01, 0x08
ACTIVE, ERROR, INTERRUPT = 0x01, 0x02, 0x04
EOT = 0x8000

READ, READ_EXT, READ_DMA, READ_DMA_EXT, READ_MULTIPLE = 0x20, 0x24, 0xC8, 0x25, 0xC4
WRITE, WRITE_EXT, WRITE_DMA, WRITE_DMA_EXT, WRITE_MULTIPLE = 0x30, 0x34, 0xCA, 0x35, 0xC5
WRITE_DMA_FUA_EXT, WRITE_MULTIPLE_EXT, READ_MULTIPLE_EXT = 0x3D, 0x39, 0x29
VERIFY, VERIFY_EXT, TRIM, FLUSH, IDENTIFY, DIAGNOSTIC = 0x40, 0x42, 0x06, 0xE7, 0xEC, 0x90
SET_MULTIPLE, SET_FEATURES, PACKET, IDENTIFY_PACKET, DEVICE_RESET = 0xC6, 0xEF, 0xA0, 0xA1, 0x08
READ_NATIVE_MAX, READ_NATIVE_MAX_EXT, SET_MAX = 0xF8, 0x27, 0xF9

SECTOR, BLOCK = 512, 2048
DISK_SECTORS: Final = 2048
DISC_BLOCKS: Final = 64
TABLE, DATA = 0x1000, 0x10000
CANARY: Final = 0xC5


@cache
def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes that tell where they come from: each 16 are their number."""
    return b"".join(struct.pack("<QQ", seed, at) for at in range(-(-size // 16)))[:size]


def filled(size: int, sector_size: int = 512, seed: int = 1, read_only: bool = False) -> RamDisk:
    disk = RamDisk(size, sector_size=sector_size)
    run(disk.write(0, [memoryview(bytearray(pattern(size, seed)))]))
    disk.read_only = read_only
    return disk


def contents(disk: Disk) -> bytes:
    """The whole image."""
    data = bytearray(disk.byte_count)
    run(disk.read(0, [memoryview(data)]))
    return bytes(data)


def ata(engine: Engine, disk: Disk | None = None) -> AtaDisk:
    return AtaDisk(disk or filled(DISK_SECTORS * SECTOR), engine, serial="S", firmware="F")


def atapi(engine: Engine, disk: Disk | None = None, *, empty: bool = False) -> PacketDevice:
    """A DVD drive that has told of its power-on already."""
    medium = None if empty else disk or filled(DISC_BLOCKS * BLOCK, seed=2)
    dvd = Dvd(medium, interface=PhysicalInterface.ATAPI, unit_attention=False)
    return PacketDevice(dvd, engine)


class Guest:
    """A hand on the ports of one channel."""

    def __init__(self, bench: Bench, channel: int = 0) -> None:
        self.bench, self.number = bench, channel
        self.base, self.control_port = COMMAND_PORTS[channel], CONTROL_PORTS[channel]
        self.int13_port = INT13_PORTS[channel]
        self.bm = BUS_MASTER_PORT + 8 * channel
        self.channel = bench.ide.channels[channel]

    # -- registers ---------------------------------------------------------------------------------

    def set(self, register: int, value: int) -> None:
        self.bench.outb(self.base + register, value)

    def get(self, register: int) -> int:
        return self.bench.inb(self.base + register)

    @property
    def status(self) -> int:
        return self.get(7)

    @property
    def alternate(self) -> int:
        return self.bench.inb(self.control_port)

    @property
    def error(self) -> int:
        return self.get(1)

    @property
    def registers(self) -> list[int]:
        return [self.get(register) for register in range(1, 7)]

    @property
    def irq(self) -> bool:
        return self.bench.board.line(IRQS[self.number]).level

    def control(self, value: int) -> None:
        self.bench.outb(self.control_port, value)

    def reset(self) -> None:
        """SRST, up and down."""
        self.control(SRST)
        self.control(0)

    # -- commands ----------------------------------------------------------------------------------

    def command(
        self,
        opcode: int,
        lba: int = 0,
        count: int = 1,
        *,
        features: int = 0,
        unit: int = 0,
        ext: bool = False,
        device: int | None = None,
    ) -> None:
        """Registers, then the command; with `ext` two deep."""
        top = 0 if ext else lba >> 24 & 0xF
        self.set(6, (LBA | unit * DEV | top) if device is None else device)
        for register, value in ((1, features), (2, count), (3, lba), (4, lba >> 8), (5, lba >> 16)):
            if ext:
                self.set(register, (value >> (24 if register > 2 else 8)) & 0xFF)
            self.set(register, value & 0xFF)
        self.set(7, opcode)

    def packet(self, cdb: bytes, *, limit: int = 0xFFFE, dma: bool = False, unit: int = 0) -> None:
        """PACKET, and the CDB."""
        self.set(6, unit * DEV)
        self.set(1, 1 if dma else 0)
        self.set(4, limit & 0xFF)
        self.set(5, limit >> 8)
        self.set(7, PACKET)
        self.write(cdb.ljust(12, b"\0"))

    def read(self, size: int, width: int = 2) -> bytes:
        return self.bench.ins(self.base, size, width)

    def write(self, data: bytes, width: int = 2) -> None:
        self.bench.outs(self.base, data, width)

    def identify(self, unit: int = 0) -> bytes:
        self.command(IDENTIFY_PACKET if self.is_packet(unit) else IDENTIFY, unit=unit)
        data = self.read(512)
        assert not self.status & (BSY | DRQ | ERR), hex(self.status)
        return data

    def is_packet(self, unit: int) -> bool:
        return isinstance(self.channel.drives[unit], PacketDevice)

    # -- bus master --------------------------------------------------------------------------------

    @property
    def bm_status(self) -> int:
        return self.bench.inb(self.bm + 2) & (ACTIVE | ERROR | INTERRUPT)

    def table(self, regions: Iterable[tuple[int, int]], at: int = TABLE, end: bool = True) -> None:
        """Put a table there: addresses and byte counts; the last is the end unless not `end`."""
        rows = [(base, size & 0xFFFF, 0) for base, size in regions]
        if end:
            rows[-1] = (*rows[-1][:2], EOT)
        self.poke(at, b"".join(struct.pack("<IHH", *row) for row in rows))

    def start(self, to_memory: bool, table: int = TABLE) -> None:
        self.bench.outb(self.bm, 0)
        self.bench.outb(self.bm + 2, ERROR | INTERRUPT)
        self.bench.outl(self.bm + 4, table)
        self.bench.outb(self.bm, START | (TO_MEMORY if to_memory else 0))

    def stop(self) -> None:
        self.bench.outb(self.bm, 0)

    def dma(
        self,
        opcode: int,
        regions: Iterable[tuple[int, int]],
        lba: int = 0,
        count: int = 1,
        *,
        ext: bool = False,
        features: int = 0,
        unit: int = 0,
    ) -> int:
        """A whole command by bus master: returns its status, once it is no longer active alone."""
        self.table(regions)
        self.command(opcode, lba, count, ext=ext, features=features, unit=unit)
        self.start(opcode in (READ_DMA, READ_DMA_EXT))
        self.settle()
        status = self.bm_status
        self.stop()
        return status

    # -- memory ------------------------------------------------------------------------------------

    def poke(self, at: int, data: bytes) -> None:
        for view in self.bench.memory.views(at, len(data)):
            view[:], data = data[: len(view)], data[len(view) :]

    def peek(self, at: int, size: int) -> bytes:
        return b"".join(self.bench.memory.views(at, size))

    def ram(self) -> bytes:
        return b"".join(region.view for region in self.bench.memory.regions)

    def lay_canaries(self) -> None:
        for region in self.bench.memory.regions:
            region.view[:] = bytes([CANARY]) * len(region.view)

    # -- time --------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Until nothing is ready to be done."""
        settle(self.bench.engine)

    def check_usable(self, unit: int = 0) -> None:
        """After a reset the drive does as it should, by PIO and by DMA."""
        self.control(0)
        self.stop()
        self.reset()
        self.settle()
        drive = self.channel.drives[unit]
        self.set(6, unit * DEV)
        if drive is None:
            return
        assert not self.status & (BSY | DRQ | ERR), hex(self.status)
        self.identify(unit)
        if isinstance(drive, AtaDisk) and not isinstance(drive.disk, Breaking):
            self.command(READ, 3, 2, unit=unit)
            self.settle()
            assert self.read(1024) == contents(bottom(drive.disk))[3 * 512 : 5 * 512]
            assert self.dma(READ_DMA, [(DATA, 1024)], 3, 2, unit=unit) == INTERRUPT
            assert self.peek(DATA, 1024) == contents(bottom(drive.disk))[3 * 512 : 5 * 512]
            assert not self.status & (BSY | DRQ | ERR)


def bottom(disk: Disk) -> Disk:
    while isinstance(disk, Filter):
        disk = disk.below
    return disk


def settle(engine: Engine) -> None:
    for _ in range(2000):
        engine.turn(0)
        if not engine._posted and not engine._end_of_turn:
            return
    raise AssertionError("the engine does not come to rest")


def scattered(*places: tuple[int, int]) -> GuestMemory:
    """RAM at the addresses, of the sizes."""
    return GuestMemory(Region(at, memoryview(bytearray(size))) for at, size in places)


class Breaking(Filter):
    """A disk whose operations raise what `fault(name, sector, count)` gives, unless None."""

    kind = "breaking"

    def __init__(self, below: Disk, fault: Callable[[str, int, int], Exception | None]) -> None:
        super().__init__(below)
        self.fault = fault

    def _check(self, name: str, sector: int, size: int) -> None:
        error = self.fault(name, sector, size // self.sector_size)
        if error is not None:
            raise error

    async def read(self, sector: int, buffers: Buffers) -> None:
        self._check("read", sector, sum(map(len, buffers)))
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self._check("write", sector, sum(map(len, buffers)))
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        self._check("flush", 0, 0)
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        self._check("unmap", sector, count * self.sector_size)
        await self.below.unmap(sector, count)


class SystemCall(Suspension[None]):
    """What cannot be given up once it has begun; the test ends it."""

    def __init__(self, started: list[Resume]) -> None:
        self._started = started

    def begin(self, workers: Workers, resume: Resume) -> None:
        self._started.append(resume)


class Stubborn(Filter):
    """Its reads, writes and flushes are under way in the kernel until the test ends them."""

    kind = "stubborn"

    def __init__(self, below: Disk) -> None:
        super().__init__(below)
        self.started: list[Resume] = []
        self.holds = True

    async def _wait(self) -> None:
        if self.holds:
            await SystemCall(self.started)

    async def read(self, sector: int, buffers: Buffers) -> None:
        await self._wait()
        await self.below.read(sector, buffers)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        await self._wait()
        await self.below.write(sector, buffers, fua)

    async def flush(self) -> None:
        await self._wait()
        await self.below.flush()

    async def unmap(self, sector: int, count: int) -> None:
        await self._wait()
        await self.below.unmap(sector, count)

    def end_all(self) -> None:
        self.holds = False
        while self.started:
            self.started.pop()(None, None)


INT13 = struct.Struct("<BBBBIHHIIHH")


def int13(
    guest: Guest,
    command: int,
    *,
    lba: int = 0,
    count: int = 1,
    buffer: int = TABLE,
    byte_count: int = 0,
    head: int = 0,
    device: int = LBA,
    at: int = 0x800,
) -> Hold | None:
    """An enlightened request: its packet at `at`, and the write that begins it."""
    low, high = lba & 0xFFFFFFFF, lba >> 32
    guest.poke(at, INT13.pack(command, device, 0, 0, low, high, count, byte_count, buffer, head, 0))
    return guest.bench.outl(guest.int13_port, at)


Drives = Mapping[Place, Device]
