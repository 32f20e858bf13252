"""A board on which a function is recorded: its guest is a driver of ours in the same process."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.hosts.vfio_user.messages import DmaFlags, DmaMap
from drivebay.lab.replay import Player, Recorder, Recording
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.pci import Command, Header, PciBus, PciFunction

MIB = 1 << 20
RAM_SIZE = 48 * MIB
BAR = 0xFEB00000

Make = Callable[[Any, Engine, list[Any]], PciFunction]
"""Makes a function of memory, engine and disks."""


class RecordedBench:
    """A function that `make` makes, recorded to `path`, and what a driver needs to work it."""

    def __init__(self, path: Path, engine: Engine, make: Make, disks: list[Disk]) -> None:
        self.engine = engine
        self.recorder = Recorder(path, engine)
        fd = os.memfd_create("ram")
        os.ftruncate(fd, RAM_SIZE)
        self.memory = GuestMemory([Region(0, memoryview(mmap.mmap(fd, RAM_SIZE)))])
        both = DmaFlags.READ | DmaFlags.WRITE
        self.recorder.memory.map(DmaMap(DmaMap.size, both, 0, 0, RAM_SIZE), fd)
        os.close(fd)
        self.board = Board(engine, self.memory)
        self.level = False
        self.function = make(
            self.recorder.memory,
            self.recorder.engine,
            [self.recorder.disk(disk) for disk in disks],
        )
        shown = self.recorder.show(self.function)
        self.bus = PciBus(self.board.ports, self.board.mmio, self._interrupt)
        self.bus.plug(4, 0, shown)
        index = 5 if 5 in self.function.bars else 0
        shown.config_write(Header.BAR0.offset + 4 * index, 4, BAR)
        command = Command.of(MemorySpace=1, BusMaster=1)
        shown.config_write(Header.Command.offset, 2, command)
        self.mmio = Settling(self)

    def _interrupt(self, _line: int, level: bool) -> None:
        self.recorder.memory.write_back()
        self.level = level

    def poll(self) -> None:
        """A turn; then the guest sees what was done."""
        self.engine.turn(0)
        self.recorder.memory.write_back()

    def driver(self, kind: Callable[..., Any], **options: Any) -> Any:
        arena = Arena(self.memory, MIB, RAM_SIZE - MIB)
        return kind(self.mmio, BAR, arena, poll=self.poll, **options)


class Settling:
    """The board's registers, as a host shows them: what a status tells of is in memory by then."""

    def __init__(self, bench: RecordedBench) -> None:
        self._bench = bench

    def read(self, address: int, width: int) -> int:
        self._bench.recorder.memory.write_back()
        return self._bench.board.mmio.read(address, width)

    def write(self, address: int, width: int, value: int) -> None:
        self._bench.board.mmio.write(address, width, value)


def replay(path: Path, make: Make, count: int = 1) -> int:
    """Replay it into another function of the same make, with `count` disks."""
    player = Player(Recording(path))
    disks = [player.disk() for _ in range(count)]
    return player.play(make(player.memory, player.engine, disks))
