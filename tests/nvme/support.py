"""An NVMe function on a board of its own, for tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from drivebay.controllers.nvme import Controller, Nvme, Subsystem
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme import NvmeDriver
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Command, Header, PciBus

RAM_SIZE: Final = 48 << 20
ARENA: Final = 0x100000
BAR: Final = 0xFE000000
MSIX_BAR: Final = 0xFD000000
MESSAGES_AT: Final = 0xFEE00000
SLOT: Final = 4


class Bench:
    """An NVMe function at 00:04.0 with `disks` by namespace, on a board of its own.

    `interrupts` lists every change of the interrupt line, `messages` every vector that was sent.
    Further arguments are `Nvme`'s.
    """

    def __init__(
        self,
        engine: Engine,
        disks: Mapping[int, Disk] | None = None,
        memory: GuestMemory | None = None,
        **options: Any,
    ) -> None:
        self.engine = engine
        self.memory = memory or GuestMemory.of_size(RAM_SIZE)
        self.board = Board(engine, self.memory)
        self.mmio = self.board.mmio
        self.nvme = Nvme(self.memory, engine, **options)
        for nsid, disk in (disks or {}).items():
            self.nvme.add(nsid, disk)
        self.interrupts: list[bool] = []
        self.level = False
        self.messages: list[int] = []
        self.nvme.msix.send = lambda _address, data: self.messages.append(data)
        self.bus = PciBus(self.board.ports, self.mmio, self._interrupt)
        self.bus.plug(SLOT, 0, self.nvme)

    @property
    def controller(self) -> Controller:
        return self.nvme.controller

    @property
    def subsystem(self) -> Subsystem:
        return self.nvme.subsystem

    def _interrupt(self, _line: int, level: bool) -> None:
        self.level = level
        self.interrupts.append(level)

    def enable(self) -> None:
        """What firmware does."""
        self.nvme.config_write(Header.BAR0.offset, 4, BAR)
        self.nvme.config_write(Header.BAR1.offset, 4, 0)
        self.nvme.config_write(Header.BAR4.offset, 4, MSIX_BAR)
        command = Command.of(MemorySpace=1, BusMaster=1)
        self.nvme.config_write(Header.Command.offset, 2, command)

    def enable_messages(self) -> None:
        """MSI-X, each vector's message its number."""
        for vector in range(self.nvme.msix.vectors):
            at = MSIX_BAR + 16 * vector
            self.mmio.write(at, 8, MESSAGES_AT)
            self.mmio.write(at + 8, 4, vector)
            self.mmio.write(at + 12, 4, 0)
        self.nvme.config_write(self.nvme.msix.offset + 2, 2, 0x8000)

    def driver(self, *, mmio: Any = None, arena: Arena | None = None, **options: Any) -> NvmeDriver:
        """A driver that polls."""
        arena = arena or Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        return NvmeDriver(
            mmio or self.mmio, BAR, arena, poll=partial(self.engine.turn, 0), **options
        )

    def settle(self, turns: int = 8) -> None:
        """Let what can be done be done."""
        for _ in range(turns):
            self.engine.turn(0)

    def wait(self, condition: Callable[[], object]) -> None:
        """Turn the engine until `condition` holds."""
        assert self.engine.run_until(lambda: bool(condition())), "it never happens"

    def replaced(self, disks: Mapping[int, Disk], **options: Any) -> Bench:
        """Save the controller, and go on with another on the same memory that `disks` are on.

        What is saved is plain data: numbers, text and bytes in dicts and lists.
        """
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.nvme.save()))
        other = Bench(self.engine, disks, self.memory, **options)
        other.nvme.restore(state)
        return other
