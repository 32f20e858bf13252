"""A bay of disks in memory, and its control socket on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.hosts.control.bay import Bay, Controller
from drivebay.hosts.control.client import Control
from drivebay.hosts.control.methods import methods
from drivebay.hosts.control.server import ControlServer
from drivebay.hosts.control.slot import Slot
from drivebay.hosts.listening import listen
from drivebay.platform.engine import Engine

MIB = 1 << 20


class Tape:
    """A peer: what it was sent, and whether anybody listens to it. It is `full` when it takes no
    more answers."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.listening = True
        self.full = False

    def send(self, data: bytes) -> bool:
        self.sent += data
        return not self.full

    def listen(self, wanted: bool) -> None:
        self.listening = wanted

    def later(self, callback: Callable[[], None]) -> None:
        raise AssertionError

    def take(self) -> list[Any]:
        """The answers since the last time."""
        lines = [msgspec.json.decode(line) for line in self.sent.splitlines()]
        self.sent.clear()
        return lines


def layered(disk: Disk) -> LayeredDisk:
    return LayeredDisk([DiskLayer(disk)])


@dataclass
class Served:
    """A bay, on an engine that another thread runs."""

    bay: Bay
    engine: Engine
    path: str
    server: ControlServer
    thread: threading.Thread
    changes: list[str] = field(default_factory=list)

    def control(self) -> Control:
        return Control(self.path, timeout=30)


def controller(name: str, slots: dict[str, Slot], **more: Any) -> Controller:
    return Controller(name, "test", f"/tmp/{name}", slots, connected=lambda: False, **more)


@contextmanager
def serve(folder: Path, *controllers: Controller) -> Iterator[Served]:
    engine = Engine()
    changes: list[str] = []
    bay = Bay(controllers, lambda: changes.append("changed"))
    path = str(folder / "control")
    server = ControlServer(methods(bay, engine.stop), engine, listen(path))
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        yield Served(bay, engine, path, server, thread, changes)
    finally:
        engine.stop()
        thread.join()
        server.close()
        assert engine.run_until(lambda: server.at_rest)
        for disk in bay.disks:
            disk.close()
        engine.close()


def ram(size: int = MIB) -> Slot:
    return Slot(layered(RamDisk(size)), f"mem:{size}")
