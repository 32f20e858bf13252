"""The 8042 keyboard controller: a keyboard nobody types on, the A20 gate and the reset line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import Bit, Register8

__all__ = ["I8042"]

# Commands to the controller.
READ_MODE, WRITE_MODE = 0x20, 0x60
SELF_TEST, TEST_KEYBOARD, TEST_MOUSE = 0xAA, 0xAB, 0xA9
READ_OUTPUT, WRITE_OUTPUT, WRITE_MOUSE = 0xD0, 0xD1, 0xD4
PULSE_RESET: Final = 0xFE

# Commands to the keyboard, and its answers.
KEYBOARD_RESET, KEYBOARD_IDENTIFY = 0xFF, 0xF2
ACK, PASSED, TIMED_OUT = 0xFA, 0xAA, 0xFE


class Status(Register8):
    """Port 0x64."""

    CMD = Bit(3)  # the last write was a command
    SYS = Bit(2)  # the self test has passed
    OBF = Bit(0)  # there is something to read at 0x60


class OutputPort(Register8):
    """What D1h writes."""

    A20 = Bit(1)
    RESET = Bit(0)  # 0 resets the CPU


class _Command(PortRegion):
    """Port 0x64."""

    size = 1

    def __init__(self, controller: I8042) -> None:
        self._controller = controller

    def port_read(self, offset: int, width: int) -> int:
        return self._controller.status()

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        self._controller.command(value & 0xFF)
        return None


class I8042(PortRegion):
    """Port 0x60; `command_port` is 0x64. `reset_machine` is called for a pulled reset line."""

    size = 1

    def __init__(self, reset_machine: Callable[[], None]) -> None:
        self._reset_machine = reset_machine
        self.command_port = _Command(self)
        self.reset()

    def reset(self) -> None:
        """Nothing to read, no command under way."""
        self._answers: deque[int] = deque()
        self._mode = 0
        self._output = int(OutputPort.A20 | OutputPort.RESET)
        self._argument_of: int | None = None

    def status(self) -> int:
        """Port 0x64: the controller is never busy."""
        command = self._argument_of is not None
        return Status.of(SYS=1, OBF=bool(self._answers), CMD=command)

    def command(self, value: int) -> None:
        """A command at port 0x64."""
        self._argument_of = value if value in (WRITE_MODE, WRITE_OUTPUT, WRITE_MOUSE) else None
        answer = {
            READ_MODE: self._mode,
            SELF_TEST: 0x55,
            TEST_KEYBOARD: 0,
            TEST_MOUSE: 1,  # there is none: its clock line is stuck
            READ_OUTPUT: self._output,
        }.get(value)
        if answer is not None:
            self._answers.append(answer)
        if value == PULSE_RESET:
            self._reset_machine()

    def port_read(self, offset: int, width: int) -> int:
        """The next byte; 0 if there is none."""
        return self._answers.popleft() if self._answers else 0

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """The argument of a command, or a command to the keyboard, which agrees to all."""
        command, self._argument_of = self._argument_of, None
        if command == WRITE_MODE:
            self._mode = value & 0xFF
        elif command == WRITE_OUTPUT:
            self._output = value & 0xFF
            if not value & OutputPort.RESET:
                self._reset_machine()
        elif command == WRITE_MOUSE:
            self._answers.append(TIMED_OUT)
        else:
            more = {KEYBOARD_RESET: (PASSED,), KEYBOARD_IDENTIFY: (0xAB, 0x83)}.get(value, ())
            self._answers.extend((ACK, *more))
        return None
