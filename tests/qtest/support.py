"""A machine and its sessions in this process, without sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from drivebay.disk.contract import Disk
from drivebay.hosts.qtest.monitor import Monitor
from drivebay.hosts.qtest.qmp import QmpSession
from drivebay.hosts.qtest.runstate import RunState
from drivebay.hosts.qtest.session import QtestSession
from drivebay.machines.chips.clock import Clock
from drivebay.machines.drives import Fixed
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.machine import Drive, MachineError
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.ports import Hold, PortRegion

RAM = 0x10000
HIGH = 0x100000
REGISTERS = 0xF000_0000


class Tape:
    """A peer that remembers what was sent to it, and is full after `space` bytes."""

    def __init__(self) -> None:
        self.sent = b""
        self.sends = 0
        self.listening = True
        self.space = 1 << 40
        self.calls: list[Callable[[], None]] = []

    def later(self, callback: Callable[[], None]) -> None:
        self.calls.append(callback)

    def send(self, data: bytes) -> bool:
        self.sent += data
        self.sends += 1
        self.space -= len(data)
        return self.space > 0

    def listen(self, wanted: bool) -> None:
        self.listening = wanted

    def take(self) -> str:
        sent, self.sent = self.sent, b""
        return sent.decode()


class Toy(PortRegion):
    """Four ports and 64 bytes of registers that remember, and what was done to them.

    Port 1 holds writes, port 2 raises line 5 and port 3 lowers it; port 0 breaks if told to.
    """

    size = 4

    def __init__(self, board: Board) -> None:
        self.line = board.line(5)
        self.calls: list[tuple[object, ...]] = []
        self.holds: list[Hold] = []
        self.bytes = bytearray(64)
        self.broken = False

    def port_read(self, offset: int, width: int) -> int:
        if self.broken:
            raise RuntimeError("a bug")
        self.calls.append(("in", offset, width))
        return 0x12345678 & ((1 << 8 * width) - 1)

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        self.calls.append(("out", offset, width, value))
        if offset == 1:
            self.holds.append(Hold())
            return self.holds[-1]
        if offset in (2, 3):
            self.line.set(offset == 2)
        return None


class ToyRegisters:
    """The registers of a `Toy`."""

    size = 64

    def __init__(self, toy: Toy) -> None:
        self._toy = toy

    def mmio_read(self, offset: int, width: int) -> int:
        self._toy.calls.append(("read", offset, width))
        return int.from_bytes(self._toy.bytes[offset : offset + width], "little")

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        self._toy.calls.append(("write", offset, width, value))
        self._toy.bytes[offset : offset + width] = value.to_bytes(width, "little")


class Tray(Fixed):
    """A drive with a tray."""

    removable = True

    def __init__(self, disk: Disk | None, moved: Callable[[bool], None]) -> None:
        self.disk = disk
        self.locked = self.tray_open = False
        self.asked = 0
        self._moved = moved

    def request_eject(self) -> None:
        self.asked += 1

    def move_tray(self, opened: bool) -> None:
        if opened != self.tray_open:
            self.tray_open = opened
            self._moved(opened)

    def insert(self, disk: Disk) -> None:
        if disk.byte_count % 2048:
            raise MachineError("it does not fit")
        self.disk = disk

    def remove(self) -> Disk | None:
        disk, self.disk = self.disk, None
        return disk


class ToyMachine:
    """RAM at 0 and at 1 MiB, a toy at port 0x100 and at 0xF0000000, drives of two kinds."""

    def __init__(self, engine: Engine) -> None:
        regions = [Region(at, memoryview(bytearray(RAM))) for at in (0, HIGH)]
        self.board = Board(engine, GuestMemory(regions))
        self.toy = Toy(self.board)
        self.board.ports.map(0x100, self.toy)
        self.board.mmio.map(REGISTERS, ToyRegisters(self.toy))
        self.clock = Clock()
        self.tray_moved: Callable[[str, bool], None] = lambda _id, _opened: None
        self.drives: dict[str, Drive] = {}
        self.going: list[Callable[[], None]] = []
        self.resets = 0
        self.board.on_reset(self._reset)

    def _reset(self) -> None:
        self.resets += 1

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        if driver == "tray":
            self.drives[id] = Tray(disk, lambda opened: self.tray_moved(id, opened))
        elif driver == "fixed" and disk is not None and not options:
            self.drives[id] = Fixed(disk)
        else:
            raise MachineError(f"'{driver}' with {sorted(options)} is no device")

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        del self.drives[id]
        self.going.append(gone)


class Bench:
    """A toy machine, and both of its sessions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.machine = ToyMachine(engine)
        self.state = RunState()
        self.quits = 0
        self.monitor = Monitor(self.machine, self.state, self._quit)
        self.tape, self.qmp_tape = Tape(), Tape()
        self.session = QtestSession(self.machine.board, self.machine.clock, self.tape)
        self.qmp = QmpSession(self.monitor, engine, self.qmp_tape)
        self.toy = self.machine.toy

    def _quit(self) -> None:
        self.quits += 1

    def ask(self, line: str | bytes) -> str:
        """A line of qtest; all that it is answered."""
        self.session.receive((line.encode() if isinstance(line, str) else line) + b"\n")
        while self.tape.calls:
            self.tape.calls.pop()()
        return self.tape.take()

    def raw_qmp(self, data: bytes | str) -> list[dict[str, Any]]:
        """Bytes of QMP; the messages that come back."""
        self.qmp.receive(data.encode() if isinstance(data, str) else data)
        return [json.loads(line) for line in self.qmp_tape.take().splitlines()]

    def execute(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        """A command; the answer, and the events around it."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.raw_qmp(json.dumps({"execute": command, "arguments": named}) + "\n")
