"""What the tests of the vfio-user host stand on."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivebay.hosts.listening import listen
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.pci import Bar, BarKind, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import PciExpress, PowerManagement, add_capabilities
from drivebay.platform.pci_messages import MsiCapability, MsixCapability
from drivebay.platform.ports import Hold, PortRegion
from drivebay.platform.shared_region import SharedRegion
from drivebay.testing.vfio_user import Monitor

PAGE = 4096
ADDRESS, LENGTH, COPY, LINE, VECTOR, HOLD, BUG, REVERSE = (8 * n for n in range(8))
"""Registers of `Copier`."""


class Copier(PciFunction):
    """A function with registers of every kind.

    BAR0: write an address and a length; a write to COPY turns the bytes there around in place, and
    raises the line, or sends vector 0. BAR2 are ports that remember, BAR3 is nobody, BAR5 shared.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.values = dict.fromkeys(range(0, 64, 8), 0)
        self.ports = Ports()
        self.msi, self.msix = MsiCapability(2), MsixCapability(4, bar=4)
        self.shared = SharedRegion(4 * PAGE, [(PAGE, PAGE), (3 * PAGE, PAGE)])
        self.hold = Hold()
        self.resets = 0
        self.held: memoryview | None = None
        self.size = 64
        super().__init__(
            PciIdentity(0x1AF4, 0x1234, 0xFF0000, interrupt_pin=1),
            {
                0: Bar(BarKind.MEMORY32, 64, self),
                2: Bar(BarKind.IO, 16, self.ports),
                3: Bar(BarKind.MEMORY32, 32),
                4: self.msix.whole_bar(),
                5: Bar(BarKind.MEMORY32, 4 * PAGE, self.shared),
            },
        )
        add_capabilities(self, [PowerManagement(), self.msi, self.msix, PciExpress()])

    def mmio_read(self, offset: int, width: int) -> int:
        return self.values[offset & ~7] >> 8 * (offset & 7) & (1 << 8 * width) - 1

    def mmio_write(self, offset: int, width: int, value: int) -> Any:
        self.values[offset & ~7] = value
        if offset == COPY:
            self._turn()
        elif offset == LINE:
            self.intx.set(bool(value))
        elif offset == VECTOR:
            self.msix.notify(value)
        elif offset == HOLD:
            self.hold = Hold()
            return self.hold
        elif offset == BUG:
            raise ZeroDivisionError("a bug")
        return None

    def _turn(self) -> None:
        try:
            view = self.memory.view(self.values[ADDRESS], self.values[LENGTH])
        except GuestMemoryFault:
            self.values[REVERSE] = 0xBAD
            return
        view[:] = bytes(view)[::-1]
        self.values[REVERSE] += 1
        self.intx.set(True)

    def reset(self) -> None:
        self.resets += 1
        self.intx.set(False)
        super().reset()

    def save(self) -> dict[str, Any]:
        return super().save() | {"values": {str(k): v for k, v in self.values.items()}}

    def restore(self, state: Any) -> None:
        super().restore(state)
        self.values = {int(k): int(v) for k, v in state["values"].items()}


class Ports(PortRegion):
    """Sixteen bytes, and the widths they were accessed with."""

    size = 16

    def __init__(self) -> None:
        self.bytes = bytearray(16)
        self.accesses: list[tuple[int, int]] = []

    def port_read(self, offset: int, width: int) -> int:
        self.accesses.append((offset, width))
        return int.from_bytes(self.bytes[offset : offset + width], "little")

    def port_write(self, offset: int, width: int, value: int) -> None:
        self.accesses.append((offset, width))
        self.bytes[offset : offset + width] = value.to_bytes(width, "little")


@dataclass
class Bay:
    """A function served on a socket, by an engine that runs while a monitor waits."""

    engine: Engine
    memory: ClientMemory
    function: Copier
    server: VfioUserServer
    path: str

    def turn(self) -> None:
        self.engine.turn(0.01)

    def settle(self) -> None:
        for _ in range(5):
            self.engine.turn(0)

    def monitor(self, **options: Any) -> Monitor:
        return Monitor(self.path, poll=self.turn, **options)

    def raw(self) -> Monitor:
        return self.monitor(start=False)

    def until_free(self) -> None:
        assert self.engine.run_until(lambda: not self.server.connected, 2)

    def still_works(self) -> None:
        self.until_free()
        with self.monitor() as monitor:
            assert monitor.read(7, 0, 4) == 0x1234_1AF4
        self.until_free()

    @contextlib.contextmanager
    def in_thread(self) -> Iterator[None]:
        """The engine runs by itself, as in a process of its own."""
        thread = threading.Thread(target=self.engine.run)
        thread.start()
        try:
            yield
        finally:
            self.engine.stop()
            thread.join()


def make_bay(engine: Engine, folder: Path, patience: float = 10.0) -> Bay:
    path = str(folder / f"{len(os.listdir(folder))}.sock")
    memory = ClientMemory()
    function = Copier(memory)
    server = VfioUserServer(function, memory, engine, listen(path), patience=patience)
    return Bay(engine, memory, function, server, path)


def eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def signalled(fd: int) -> int:
    """How often an eventfd was signalled since the last look."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0
