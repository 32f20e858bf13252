"""A 16550 serial port whose other end is two functions.

Sections are of TI's data sheet PC16550D (SNLS378C). It sends at once, whatever the divisor says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from drivebay.platform.interrupts import Line
from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import At, Bit, Bits, Register8, RegisterMap

__all__ = ["Uart16550"]

MODEM_READY: Final = 0xB0  # DCD, DSR and CTS: somebody listens


class InterruptEnable(Register8):
    """IER."""

    ETBEI = Bit(1)  # the transmitter is empty
    ERBFI = Bit(0)  # there is a byte to read


class FifoControl(Register8):
    """FCR."""

    XMIT_RESET = Bit(2)
    RCVR_RESET = Bit(1)
    ENABLE = Bit(0)


class LineControl(Register8):
    """LCR."""

    DLAB = Bit(7)
    FORMAT = Bits(6, 0)


class LineStatus(Register8):
    """LSR."""

    TEMT = Bit(6)
    THRE = Bit(5)
    DR = Bit(0)


class Registers(RegisterMap):
    """By offset; two of them are the divisor while DLAB is set."""

    RBR = At(0, Register8)  # THR when written
    IER = At(1, InterruptEnable)
    IIR = At(2, Register8)  # FCR when written
    LCR = At(3, LineControl)
    MCR = At(4, Register8)
    LSR = At(5, LineStatus)
    MSR = At(6, Register8)
    SCR = At(7, Register8)


class Uart16550(PortRegion):
    """Eight ports. `output` takes what the guest sends; `receive` is what it gets."""

    size = 8

    def __init__(self, line: Line, output: Callable[[bytes], None]) -> None:
        self._line, self._output = line, output
        self._registers = Registers.bind(self)
        self.reset()

    def reset(self) -> None:
        """Nothing received, no interrupts."""
        self._received: deque[int] = deque()
        self._ier = self._fcr = self._lcr = self._mcr = self._scr = 0
        self._divisor = 1
        self._sent = False  # the transmitter has become empty, and the guest has not looked
        self._line.set(False)

    def receive(self, data: bytes) -> None:
        """Bytes from outside."""
        self._received.extend(data)
        self._interrupt()

    def port_read(self, offset: int, width: int) -> int:
        """Read a register."""
        read = self._registers[offset].read
        return 0 if read is None else read()

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Write a register."""
        write = self._registers[offset].write
        if write is not None:
            write(value & 0xFF)
        return None

    def _interrupt(self) -> None:
        cause = self._cause()
        self._line.set(cause != 1)

    def _cause(self) -> int:
        """The low bits of IIR: what has priority."""
        if self._received and self._ier & InterruptEnable.ERBFI:
            return 4
        if self._sent and self._ier & InterruptEnable.ETBEI:
            return 2
        return 1

    def read_RBR(self) -> int:
        """The next byte received, or the divisor's low half."""
        if self._lcr & LineControl.DLAB:
            return self._divisor & 0xFF
        value = self._received.popleft() if self._received else 0
        self._interrupt()
        return value

    def write_RBR(self, value: int) -> None:
        """Send a byte, or set the divisor's low half."""
        if self._lcr & LineControl.DLAB:
            self._divisor = self._divisor & 0xFF00 | value
            return
        self._output(bytes((value,)))
        self._sent = True
        self._interrupt()

    def read_IER(self) -> int:
        """What may interrupt, or the divisor's high half."""
        return self._divisor >> 8 if self._lcr & LineControl.DLAB else self._ier

    def write_IER(self, value: int) -> None:
        """Choose what may interrupt; the transmitter is empty, so that may at once."""
        if self._lcr & LineControl.DLAB:
            self._divisor = self._divisor & 0xFF | value << 8
            return
        self._sent = self._sent or bool(value & ~self._ier & InterruptEnable.ETBEI)
        self._ier = value & 0x0F
        self._interrupt()

    def read_IIR(self) -> int:
        """Why it interrupts; looking ends the transmitter's."""
        cause = self._cause()
        if cause == 2:
            self._sent = False
            self._interrupt()
        return cause | (0xC0 if self._fcr & FifoControl.ENABLE else 0)

    def write_IIR(self, value: int) -> None:
        """FCR: the FIFO is as long as it takes."""
        self._fcr = value & FifoControl.ENABLE
        if value & FifoControl.RCVR_RESET:
            self._received.clear()
            self._interrupt()

    def read_LCR(self) -> int:
        """The format, which nobody minds."""
        return self._lcr

    def write_LCR(self, value: int) -> None:
        """Set it, and DLAB."""
        self._lcr = value

    def read_MCR(self) -> int:
        """The modem's control lines."""
        return self._mcr

    def write_MCR(self, value: int) -> None:
        """Set them."""
        self._mcr = value & 0x1F

    def read_LSR(self) -> int:
        """It can always send."""
        return LineStatus.of(TEMT=1, THRE=1, DR=bool(self._received))

    def read_MSR(self) -> int:
        """Somebody listens."""
        return MODEM_READY

    def read_SCR(self) -> int:
        """A byte of RAM."""
        return self._scr

    def write_SCR(self, value: int) -> None:
        """Keep a byte."""
        self._scr = value
