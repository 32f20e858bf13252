"""Register accesses and interrupts of a board whose CPU runs in this process."""

from __future__ import annotations

from collections.abc import Callable

from drivebay.platform.board import Board
from drivebay.platform.mmio import MmioRegion
from drivebay.platform.onlooker import Onlooker, watched_read, watched_write
from drivebay.platform.ports import Hold, PortRegion

__all__ = ["WatchedMmio", "WatchedPorts", "watch_board", "watch_registers"]


class WatchedPorts(PortRegion):
    """A block of ports, and somebody who looks on."""

    def __init__(self, inner: PortRegion, onlooker: Onlooker) -> None:
        self._inner, self._onlooker, self._place = inner, onlooker, type(inner).__name__
        self.size, self.first = inner.size, inner.first

    def port_read(self, offset: int, width: int) -> int:
        """IN."""
        value = self._inner.port_read(offset, width)
        self._onlooker.access(self._place, False, self.first + offset, width, value)
        return value

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """OUT."""
        self._onlooker.access(self._place, True, self.first + offset, width, value)
        return self._inner.port_write(offset, width, value)

    def port_read_string(self, offset: int, width: int, buffer: memoryview) -> None:
        """REP INS: as many accesses as it has items."""
        self._inner.port_read_string(offset, width, buffer)
        self._tell(False, offset, width, buffer)

    def port_write_string(self, offset: int, width: int, data: memoryview) -> None:
        """REP OUTS."""
        self._tell(True, offset, width, data)
        self._inner.port_write_string(offset, width, data)

    def _tell(self, write: bool, offset: int, width: int, items: memoryview) -> None:
        for at in range(0, len(items), width):
            value = int.from_bytes(items[at : at + width], "little")
            self._onlooker.access(self._place, write, self.first + offset, width, value)


class WatchedMmio:
    """A block of registers, and somebody who looks on."""

    def __init__(self, inner: MmioRegion, onlooker: Onlooker) -> None:
        self._inner, place = inner, type(inner).__name__
        self.mmio_read = watched_read(inner.mmio_read, place, onlooker)
        self._write = watched_write(inner.mmio_write, place, onlooker)

    @property
    def size(self) -> int:
        """Length of the block in bytes."""
        return self._inner.size

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Store it."""
        self._write(offset, width, value)


def watch_board(board: Board, onlooker: Onlooker) -> Callable[[], None]:
    """Have `onlooker` told of all accesses and interrupts of a board that its host has taken;
    returns what ends that. A place is the class of the block of registers.
    """
    interrupt = board.interrupt

    def told(number: int, level: bool) -> None:
        onlooker.interrupt(f"line {number}", level)
        interrupt(number, level)

    def end() -> None:
        board.ports.wrap(None)
        board.mmio.wrap(None)
        if board.interrupt is told:
            board.interrupt = interrupt

    watch_registers(board, onlooker)
    board.interrupt = told
    return end


def watch_registers(board: Board, onlooker: Onlooker) -> None:
    """Have it told of accesses only, for as long as there is the board."""
    board.ports.wrap(lambda region: WatchedPorts(region, onlooker))
    board.mmio.wrap(lambda region: WatchedMmio(region, onlooker))
