"""A board worked from Python: what each call does, and what waits."""

from __future__ import annotations

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ide import PiixIde
from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.emulator import Emulator
from drivebay.machines.pc import Pc
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.platform.ports import Hold, PortRegion
from drivebay.testing import PuppetDisk


class Block:
    """Registers that hold the CPU in a write to offset 4, and answer later."""

    size = 8

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.value = 0
        self.hold: Hold | None = None

    def mmio_read(self, offset: int, width: int) -> int:
        return self.value

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        self.engine.later(lambda: setattr(self, "value", value))


class Ports(PortRegion, Block):
    """The same as ports."""

    def port_read(self, offset: int, width: int) -> int:
        return self.value & (1 << 8 * width) - 1

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        self.value = value
        if offset != 4:
            return None
        self.hold = Hold()
        if value:
            self.engine.after(0.01, self.hold.complete)
        return self.hold


@pytest.fixture
def board(engine: Engine) -> Board:
    return Board(engine, GuestMemory.of_size(1 << 20))


def test_a_write_ends_when_the_device_lets_go(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = Ports(board.engine)
    board.ports.map(0x100, ports)
    emulator = Emulator(board)
    emulator.io_write(0x104, 4, 1)
    assert ports.hold is not None
    assert ports.hold.done
    hold = emulator.io_write_nowait(0x104, 4, 2)
    assert hold is not None
    told: list[bool] = []
    hold.then(lambda: told.append(True))
    assert emulator.poll_until(lambda: bool(told))
    assert emulator.io_write_nowait(0x100, 4, 3) is None
    monkeypatch.setattr("drivebay.hosts.emulator.emulator.HOLD_SECONDS", 0.01)
    with pytest.raises(TimeoutError, match="0x104"):
        emulator.io_write(0x104, 4, 0)


def test_work_that_is_ready_is_done_in_the_next_access(board: Board) -> None:
    board.mmio.map(0x1000000, Block(board.engine))
    emulator = Emulator(board)
    emulator.mmio_write(0x1000000, 4, 5)
    assert emulator.mmio_read(0x1000000) == 5
    assert emulator.mmio_read(0x2000000, 8) == (1 << 64) - 1


def test_string_accesses(board: Board) -> None:
    board.ports.map(0x100, Ports(board.engine))
    emulator = Emulator(board)
    emulator.io_write_string(0x100, 2, b"\x01\x00\x34\x12")
    assert emulator.io_read_string(0x100, 2, 3) == b"\x34\x12" * 3
    assert emulator.io_read_string(0x200, 1, 2) == b"\xff\xff"
    with pytest.raises(ValueError, match="whole number"):
        emulator.io_write_string(0x100, 4, b"123")


def test_ram_is_the_real_thing(board: Board) -> None:
    emulator = Emulator(board)
    emulator.ram(0x1000, 4)[:] = b"real"
    assert bytes(board.memory.view(0x1000, 4)) == b"real"
    with pytest.raises(GuestMemoryFault):
        emulator.ram(0xFFFFF, 2)


def test_interrupts_and_reset(board: Board) -> None:
    told: list[tuple[int, bool]] = []
    emulator = Emulator(board, lambda *change: told.append(change))
    board.on_reset(lambda: board.line(3).set(False))
    board.line(3).set(True)
    emulator.reset()
    assert told == [(3, True), (3, False)]


def test_a_disk_that_takes_time(engine: Engine) -> None:
    """The guest sees BSY until the disk answers, and the interrupt then."""
    told: list[tuple[int, bool]] = []
    disk = PuppetDisk(RamDisk(1 << 20))
    pc = Pc(engine, 1 << 20)
    ide = PiixIde(pc.memory, (pc.line(14), pc.line(15)))
    ide.attach(0, 0, AtaDisk(disk, engine))
    pc.bus.plug(1, 1, ide)
    emulator = Emulator(pc, lambda *change: told.append(change))
    for port, value in ((0x1F2, 1), (0x1F3, 3), (0x1F4, 0), (0x1F5, 0), (0x1F6, 0xE0)):
        emulator.io_write(port, 1, value)
    emulator.io_write(0x3F6, 1, 8)
    emulator.io_write(0x1F7, 1, 0x20)  # READ SECTORS
    assert emulator.io_read(0x3F6) & 0x80
    assert not told
    disk.held[0].complete()
    assert emulator.poll_until(lambda: told == [(14, True)])
    assert emulator.io_read(0x1F7) & 0x88 == 0x08
    assert emulator.io_read_string(0x1F0, 4, 128) == bytes(512)
