"""A board with an AHCI controller on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from drivebay.ata.device import Device
from drivebay.controllers.ahci import Ahci, Port
from drivebay.drivers.ahci import AhciDriver
from drivebay.drivers.arena import Arena
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Command, Header, PciBus
from drivebay.testing.puppet import Held, PuppetDisk

RAM_SIZE: Final = 48 << 20
ARENA: Final = 0x100000
BAR: Final = 0xFEBF0000
SLOT, FUNCTION = 0x1F, 2


class Bench:
    """An AHCI function at 00:1f.2 with `drives` at their ports, on a board of its own.

    `interrupts` lists every change of the interrupt line. Further arguments are `Ahci`'s.
    """

    def __init__(
        self,
        engine: Engine,
        drives: Mapping[int, Device] | None = None,
        memory: GuestMemory | None = None,
        **options: Any,
    ) -> None:
        self.engine = engine
        self.memory = memory or GuestMemory.of_size(RAM_SIZE)
        self.board = Board(engine, self.memory)
        self.mmio = self.board.mmio
        self.ahci = Ahci(self.memory, engine, **options)
        for port, drive in (drives or {}).items():
            self.ahci.attach(port, drive)
        self.interrupts: list[bool] = []
        self.level = False
        self.bus = PciBus(self.board.ports, self.mmio, self._interrupt)
        self.bus.plug(SLOT, FUNCTION, self.ahci)

    def _interrupt(self, _line: int, level: bool) -> None:
        self.level = level
        self.interrupts.append(level)

    def enable(self) -> None:
        """What firmware does."""
        self.ahci.config_write(Header.BAR5.offset, 4, BAR)
        command = Command.of(MemorySpace=1, BusMaster=1)
        self.ahci.config_write(Header.Command.offset, 2, command)

    def port(self, number: int = 0) -> Port:
        return self.ahci.hba.ports[number]

    def driver(self, *, polled: bool = False, mmio: Any = None, **options: Any) -> AhciDriver:
        """A driver that waits for interrupts unless `polled`."""
        arena = Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        raised = None if polled else lambda: self.level
        poll = partial(self.engine.turn, 0)
        return AhciDriver(mmio or self.mmio, BAR, arena, poll=poll, raised=raised, **options)

    def wait(self, condition: Callable[[], object]) -> None:
        """Turn the engine until `condition` holds."""
        assert self.engine.run_until(lambda: bool(condition())), "it never happens"

    def replaced(self, drives: Mapping[int, Device], **options: Any) -> Bench:
        """Save the controller, and go on with another on the same memory that `drives` are on.

        What is saved is plain data: numbers, text and bytes in dicts and lists.
        """
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.ahci.save()))
        other = Bench(self.engine, drives, self.memory, **options)
        other.ahci.restore(state)
        return other


class Stubborn(PuppetDisk):
    """A disk whose operations cannot be called back, as system calls under way cannot."""

    def _hold(self, operation: Held) -> None:
        operation.cancel = lambda: False  # type: ignore[method-assign]
        super()._hold(operation)
