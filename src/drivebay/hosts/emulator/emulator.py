"""A board, worked from Python: what an emulator, a firmware test or a driver's unit test calls.

There is no thread and no virtual machine. Devices work inside the accesses and inside `poll`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.platform.board import Board, Interrupt
from drivebay.platform.ports import Hold

__all__ = ["Emulator"]

HOLD_SECONDS: Final = 60.0


class Emulator:
    """Accesses to `board` as the guest's CPU makes them; `interrupt` is told of its lines.

    Without `interrupt` whoever the board has for that stays, such as a PC's interrupt controller.
    Widths are in bytes: 1, 2 or 4 for ports, up to 8 for memory. A guest's mistakes do not raise;
    yours (a width or an address that no CPU has) may.

    Each access lets the devices finish what has become ready, so that a loop on a status register
    sees it change. Disks that take time answer in `poll`, which a halted CPU calls.
    """

    def __init__(self, board: Board, interrupt: Interrupt | None = None) -> None:
        self.board = board
        self._ports, self._mmio, self._turn = board.ports, board.mmio, board.engine.turn
        if interrupt is not None:
            board.interrupt = interrupt

    # -- ports -----------------------------------------------------------------------------------

    def io_read(self, port: int, width: int = 1) -> int:
        """IN: the value at `port`; all ones where there is nothing."""
        self._turn(0)
        return self._ports.read(port, width)

    def io_write(self, port: int, width: int, value: int) -> None:
        """OUT, to its end: a device may hold the CPU until the disk has answered.

        Raises `TimeoutError` if it does so for a minute.
        """
        hold = self.io_write_nowait(port, width, value)
        if hold is not None and not self.board.engine.run_until(lambda: hold.done, HOLD_SECONDS):
            raise TimeoutError(f"the write of {value:#x} to port {port:#x} does not end")

    def io_write_nowait(self, port: int, width: int, value: int) -> Hold | None:
        """OUT for callers that can keep their CPU waiting: a `Hold` is in it until it is done.

        Call `poll` until then; `Hold.then` tells the moment.
        """
        hold = self._ports.write(port, width, value)
        self._turn(0)
        return None if hold is None or hold.done else hold

    def io_read_string(self, port: int, width: int, count: int) -> bytes:
        """REP INS: `count` items of `width` bytes from one port, in one go."""
        data = bytearray(count * width)
        self._turn(0)
        self._ports.read_string(port, width, memoryview(data))
        return bytes(data)

    def io_write_string(self, port: int, width: int, data: bytes | memoryview) -> None:
        """REP OUTS: `data`, whole items of `width` bytes, to one port, in one go.

        Raises `ValueError` if the last item is not whole.
        """
        if len(data) % width:
            raise ValueError(f"{len(data)} bytes are no whole number of {width}-byte items")
        self._ports.write_string(port, width, memoryview(data))
        self._turn(0)

    # -- memory ----------------------------------------------------------------------------------

    def mmio_read(self, address: int, width: int = 4) -> int:
        """Read a device register; all ones where there is none."""
        self._turn(0)
        return self._mmio.read(address, width)

    def mmio_write(self, address: int, width: int, value: int) -> None:
        """Write a device register."""
        self._mmio.write(address, width, value)
        self._turn(0)

    def ram(self, address: int, length: int) -> memoryview:
        """`length` bytes of RAM at guest physical `address`: the real thing, to read and write.

        Raises `GuestMemoryFault` where there is no RAM.
        """
        return self.board.memory.view(address, length)

    # -- time ------------------------------------------------------------------------------------

    def poll(self, timeout: float = 0) -> None:
        """Let held work finish; wait up to `timeout` seconds for some if there is none."""
        self._turn(timeout)

    def poll_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Let held work finish until `condition` holds; False if `timeout` seconds pass first."""
        return self.board.engine.run_until(condition, timeout)

    def reset(self) -> None:
        """System reset: every device's."""
        self.board.reset()
