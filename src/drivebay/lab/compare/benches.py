"""Each controller in this process, behind a board of its own, with the driver that works it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import DeviceRegister, Opcode
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.nvme.opcodes import NvmOpcode
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.registers import BlockRequest, BlockType
from drivebay.disk.contract import Disk
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.ahci.port import split
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import AtaCommand, IdeDriver, Via
from drivebay.drivers.nvme import NvmeDriver
from drivebay.drivers.virtio_blk import VirtioBlk
from drivebay.drivers.virtio_driver import Offered
from drivebay.drivers.virtio_ring import Buffer
from drivebay.lab.compare.counting import Meter
from drivebay.lab.trace.boards import watch_registers
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Command, ConfigMechanism1, Header, PciBus, PciFunction

__all__ = ["BENCHES", "Bench"]

RAM_SIZE: Final = 16 << 20
ARENA: Final = 1 << 20
BAR: Final = 0xFE000000
SLOT: Final = 4
DEPTH: Final = 32
LARGEST: Final = 1 << 20
"""Bytes of the largest I/O; `DEPTH` of 4 KiB fit in as many."""


class Bench(ABC):
    """A controller with `disk`, on a board, and its driver. With a `meter` accesses are counted."""

    def __init__(self, disk: Disk, meter: Meter | None = None) -> None:
        self._meter = meter
        self.sector = disk.sector_size
        self.engine = Engine()
        self.board = Board(self.engine, GuestMemory.of_size(RAM_SIZE))
        self.board.interrupt = lambda _number, level: self._interrupted(level)
        if meter is not None:
            watch_registers(self.board, meter)
        self.memory = self.board.memory
        self.arena = Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        self.buffer = self.arena.take(LARGEST, 0x10000)
        self.turn = partial(self.engine.turn, 0)
        self.level = False

    def _interrupted(self, level: bool) -> None:
        self.level = level
        if self._meter is not None:
            self._meter.interrupt("", level)

    def plug(self, function: PciFunction, bar: int) -> None:
        """Put a function on PCI bus 0, its registers of `bar` at `BAR`, and let it master it."""
        bus = PciBus(
            self.board.ports, self.board.mmio, lambda _line, level: self._interrupted(level)
        )
        bus.plug(SLOT, 0, function)
        function.config_write(Header.BAR0.offset + 4 * bar, 4, BAR)
        function.config_write(Header.Command.offset, 2, Command.of(MemorySpace=1, BusMaster=1))

    def close(self) -> None:
        """Let go of the engine; the disk is the caller's."""
        self.engine.close()

    @abstractmethod
    def move(self, places: Sequence[int], size: int, write: bool) -> int:
        """An I/O of `size` bytes at each of `places`, up to `DEPTH`, in bytes; as many of them at
        once as this controller takes. Returns how many that were.
        """


class IdeBench(Bench):
    """IDE by one of its routes: one command at a time."""

    def __init__(self, via: Via, disk: Disk, meter: Meter | None = None) -> None:
        super().__init__(disk, meter)
        board, self.via = self.board, via
        ide = PiixIde(self.memory, (board.line(14), board.line(15)), PIIX4)
        ide.attach(0, 0, AtaDisk(disk, self.engine))
        bus = PciBus(board.ports, board.mmio)
        bus.plug(SLOT, 0, ide)
        board.ports.map(0xCF8, ConfigMechanism1(bus))
        driver = IdeDriver(
            board.ports,
            self.arena,
            poll=self.turn,
            raised=lambda number: board.line(14 + number).level,
        )
        self.disk = driver.disk(0, 0)

    def move(self, places: Sequence[int], size: int, write: bool) -> int:
        """See `Bench`. PIO has its data in Python's memory, the others in the guest's."""
        disk, count, via = self.disk, size // self.sector, self.via
        regions = [(self.buffer, size)]
        for place in places:
            lba = place // self.sector
            if via is Via.PIO and write:
                disk.write(lba, bytes(size), via)
            elif via is Via.PIO:
                disk.read(lba, count, via)
            elif write:
                disk.write_from(regions, lba, via)
            else:
                disk.read_into(regions, lba, count, via)
        return 1


class AhciBench(Bench):
    """AHCI by commands of old, one at a time, or queued ones."""

    def __init__(self, queued: bool, disk: Disk, meter: Meter | None = None) -> None:
        super().__init__(disk, meter)
        ahci = Ahci(self.memory, self.engine, ports=1)
        ahci.attach(0, AtaDisk(disk, self.engine))
        self.plug(ahci, 5)
        driver = AhciDriver(
            self.board.mmio, BAR, self.arena, poll=self.turn, raised=lambda: self.level
        )
        self.port, self.queued = driver.disk(0).port, queued

    def move(self, places: Sequence[int], size: int, write: bool) -> int:
        """See `Bench`."""
        at_once = len(places) if self.queued else 1
        for first in range(0, len(places), at_once):
            for tag, place in enumerate(places[first : first + at_once]):
                self._prepare(tag, place // self.sector, size, write)
            tags = (1 << at_once) - 1
            self.port.issue(tags, queued=self.queued)
            self.port.finish(tags)
        return at_once

    def _prepare(self, tag: int, lba: int, size: int, write: bool) -> None:
        count, device = size // self.sector & 0xFFFF, int(DeviceRegister.LBA)
        if self.queued:
            opcode = Opcode.WRITE_FPDMA_QUEUED if write else Opcode.READ_FPDMA_QUEUED
            command = AtaCommand(opcode, count, tag << 3, lba, device, ext=True)
        else:
            opcode = Opcode.WRITE_DMA_EXT if write else Opcode.READ_DMA_EXT
            command = AtaCommand(opcode, 0, count, lba, device, ext=True)
        self.port.prepare(tag, command, split(self.buffer + tag * size, size), write=write)


class VirtioBench(Bench):
    """virtio-blk by MMIO, its requests laid out as Linux does."""

    def __init__(self, disk: Disk, meter: Meter | None = None) -> None:
        super().__init__(disk, meter)
        transport = MmioTransport(
            BlockDevice(disk, self.engine), self.memory, Line(self._interrupted)
        )
        self.board.mmio.map(BAR, transport)
        self.driver = VirtioBlk(self.board.mmio, BAR, self.arena, poll=self.turn)
        self.headers = [self.arena.take(BlockRequest.size + 1) for _ in range(DEPTH)]
        self.tables = [self.arena.take(16 * 3) for _ in range(DEPTH)]

    def move(self, places: Sequence[int], size: int, write: bool) -> int:
        """See `Bench`."""
        driver, kind = self.driver, BlockType.OUT if write else BlockType.IN
        offered = []
        for n, place in enumerate(places):
            header = self.headers[n]
            request = BlockRequest(kind, 0, place // 512).pack()
            self.memory.view(header, len(request))[:] = request
            chain = [
                Buffer(header, BlockRequest.size, False),
                Buffer(self.buffer + n * size, size, not write),
                Buffer(header + BlockRequest.size, 1, True),
            ]
            offered.append(Offered())
            driver.offer(0, chain, offered[-1], indirect=self.tables[n], kick=False)
        driver.kick()
        for each in offered:
            if each.written is None:  # it takes all that have ended
                driver.finish(each)
        return len(places)


class NvmeBench(Bench):
    """NVMe, with doorbells in memory or without."""

    def __init__(self, doorbell_buffers: bool, disk: Disk, meter: Meter | None = None) -> None:
        super().__init__(disk, meter)
        nvme = Nvme(self.memory, self.engine, queues=1, doorbell_buffers=doorbell_buffers)
        nvme.add(1, disk)
        self.plug(nvme, 0)
        self.driver = NvmeDriver(
            self.board.mmio, BAR, self.arena, poll=self.turn, raised=lambda _vector: self.level
        )
        self.namespace = self.driver.namespace(1)
        if doorbell_buffers:
            self.driver.use_doorbell_buffers()

    def move(self, places: Sequence[int], size: int, write: bool) -> int:
        """See `Bench`."""
        queue, block = self.namespace.queue, self.namespace.block
        opcode = NvmOpcode.WRITE if write else NvmOpcode.READ
        ids = []
        for n, place in enumerate(places):
            slba = place // block
            command = self.driver.command(
                opcode,
                nsid=1,
                dwords=(slba & 0xFFFFFFFF, slba >> 32, size // block - 1),
                data=(self.buffer + n * size, size),
                cid=queue.next_id(),
            )
            ids.append(queue.put(command))
        queue.ring()
        for cid in ids:
            queue.finish(cid, opcode.name)
        return len(places)


BENCHES: Final[dict[str, Callable[[Disk, Meter | None], Bench]]] = {
    "ide-pio": partial(IdeBench, Via.PIO),
    "ide-dma": partial(IdeBench, Via.DMA),
    "int13": partial(IdeBench, Via.INT13),
    "ahci": partial(AhciBench, False),
    "ahci-ncq": partial(AhciBench, True),
    "virtio-blk": VirtioBench,
    "nvme": partial(NvmeBench, False),
    "nvme-dbbuf": partial(NvmeBench, True),
}
"""By the name of the contender."""
