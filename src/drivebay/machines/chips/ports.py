"""Single ports of a PC, each a register of a few bits and a meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import Bit, Register8

__all__ = ["DebugPort", "ExitPort", "Post", "ResetControl", "SystemControlA"]

DEBUG_PRESENT: Final = 0xE9


class DebugPort(PortRegion):
    """Bytes for whoever watches; reads say that somebody does (Bochs' 0xE9, SeaBIOS' 0x402)."""

    size = 1

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output

    def port_read(self, offset: int, width: int) -> int:
        """The magic number by which firmware finds it."""
        return DEBUG_PRESENT

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Take a byte."""
        self._output(bytes((value & 0xFF,)))
        return None


class ExitPort(PortRegion):
    """A byte written here ends the run; it is the guest's exit status."""

    size = 1

    def __init__(self, ended: Callable[[int], None]) -> None:
        self._ended = ended

    def port_read(self, offset: int, width: int) -> int:
        """Nothing."""
        return 0

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """The end."""
        self._ended(value & 0xFF)
        return None


class Post(PortRegion):
    """Port 0x80: how far firmware is, and what it writes to lose a microsecond."""

    size = 1
    code = 0

    def port_read(self, offset: int, width: int) -> int:
        """The last code."""
        return self.code

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """A new code."""
        self.code = value & 0xFF
        return None


class ControlA(Register8):
    """Port 0x92."""

    A20 = Bit(1)
    RESET = Bit(0)


class SystemControlA(PortRegion):
    """Port 0x92. A20 is remembered and has no effect: address bit 20 is always there."""

    size = 1

    def __init__(self, reset_machine: Callable[[], None]) -> None:
        self._reset_machine = reset_machine
        self._value = int(ControlA.A20)

    def port_read(self, offset: int, width: int) -> int:
        """What was written."""
        return self._value

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Bit 0 going up resets the CPU."""
        self._value = value & ControlA.A20
        if value & ControlA.RESET:
            self._reset_machine()
        return None


class ResetRegister(Register8):
    """RCR of the PIIX (290562-001, section 4.2.6.2)."""

    RCPU = Bit(2)  # going up, it resets
    SRST = Bit(1)  # hard


class ResetControl(PortRegion):
    """Port 0xCF9."""

    size = 1

    def __init__(self, reset_machine: Callable[[], None]) -> None:
        self._reset_machine = reset_machine
        self._value = 0

    def port_read(self, offset: int, width: int) -> int:
        """What was written, but for RCPU."""
        return self._value

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Choose the kind of reset, or reset."""
        self._value = value & ResetRegister.SRST
        if value & ResetRegister.RCPU:
            self._reset_machine()
        return None
