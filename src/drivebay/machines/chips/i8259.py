"""The 8259A interrupt controllers of a PC: two, the second behind input 2 of the first.

Sections are of Intel's data sheet 231468-003.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import Bit, Bits, Register8

__all__ = ["I8259", "EdgeLevelControl", "PicPair"]

CASCADE: Final = 2
SPURIOUS: Final = 7


class ICW1(Register8):
    """The first initialization word; bit 4 tells it from OCW2 and OCW3."""

    INIT = Bit(4)
    LTIM = Bit(3)  # level triggered
    SNGL = Bit(1)  # no cascade: ICW3 does not follow
    IC4 = Bit(0)  # ICW4 follows


class ICW4(Register8):
    """The last one."""

    SFNM = Bit(4)  # special fully nested mode
    AEOI = Bit(1)  # automatic end of interrupt


class OCW2(Register8):
    """End of interrupt, and rotation of priorities."""

    R = Bit(7)
    SL = Bit(6)
    EOI = Bit(5)
    L = Bits(2, 0)


class OCW3(Register8):
    """What a read gives, polling, and special mask mode."""

    ESMM = Bit(6)
    SMM = Bit(5)
    OCW3 = Bit(3)
    P = Bit(2)
    RR = Bit(1)
    RIS = Bit(0)


def _lowest(bits: int, first: int) -> int:
    """The number of the bit that comes first, counting up from `first`; 8 if there is none."""
    turned = (bits >> first | bits << 8 - first) & 0xFF
    return (turned & -turned).bit_length() - 1 + first & 7 if turned else 8


class I8259(PortRegion):
    """One of them, at two ports. `output` is told the level of its INT pin."""

    size = 2

    def __init__(self, output: Callable[[bool], None]) -> None:
        self._output = output
        self.level_triggered = 0
        """Inputs that are not edges: ELCR on a PC with PCI."""
        self._levels = 0
        self.reset()

    def reset(self) -> None:
        """Nothing is pending, everything is masked until it is initialized."""
        self._irr = self._isr = 0
        self._imr = 0xFF
        self._base = 0
        self._first = 0  # the input with the highest priority
        self._awaited: list[int] = []  # initialization words still to come
        self._auto_eoi = self._rotate_on_auto_eoi = self._special_mask = False
        self._read_isr = self._poll = False
        self._output(False)

    # -- inputs ----------------------------------------------------------------------------------

    def set_input(self, number: int, level: bool) -> None:
        """An input changed. An edge is remembered while the input stays up."""
        bit = 1 << number
        if not level:
            self._levels &= ~bit
            self._irr &= ~bit
        else:
            if not self._levels & bit:
                self._irr |= bit
            self._levels |= bit
        self.update()

    def pending(self) -> int:
        """The input that is served next; 8 if none is due."""
        due = self._irr & ~self._imr
        first = _lowest(due, self._first)
        if first == 8:
            return 8
        in_service = self._isr & ~self._imr if self._special_mask else self._isr
        now = _lowest(in_service, self._first)
        before = (first - self._first & 7) < (now - self._first & 7)
        return first if now == 8 or before else 8

    def update(self) -> None:
        """Drive INT."""
        self._output(self.pending() != 8)

    def acknowledge(self) -> tuple[int, int]:
        """INTA: the input that is served now and its vector; input 7 if none is due any more."""
        number = self.pending()
        if number == 8:
            return SPURIOUS, self._base + SPURIOUS
        bit = 1 << number
        if not self.level_triggered & bit:
            self._irr &= ~bit
        if self._auto_eoi:
            if self._rotate_on_auto_eoi:
                self._first = number + 1 & 7
        else:
            self._isr |= bit
        self.update()
        return number, self._base + number

    # -- ports -----------------------------------------------------------------------------------

    def port_read(self, offset: int, width: int) -> int:
        """The mask, or what OCW3 chose: requests, what is in service, or a poll."""
        if self._poll:
            self._poll = False
            number = self.pending()
            if number == 8:
                return 0
            self.acknowledge()
            return 0x80 | number
        if offset:
            return self._imr
        return self._isr if self._read_isr else self._irr

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """A command word."""
        if offset == 0 and value & ICW1.INIT:
            self._initialize(ICW1(value))
        elif offset == 0 and value & OCW3.OCW3:
            self._ocw3(OCW3(value))
        elif offset == 0:
            self._ocw2(OCW2(value))
        elif self._awaited:
            self._icw(self._awaited.pop(0), value)
        else:
            self._imr = value & 0xFF
            self.update()
        return None

    def _initialize(self, icw1: ICW1) -> None:
        levels = self._levels
        self.reset()
        self._imr = 0
        self._irr = levels & self.level_triggered
        self._awaited = [2, *([] if icw1.SNGL else [3]), *([4] if icw1.IC4 else [])]

    def _icw(self, number: int, value: int) -> None:
        if number == 2:
            self._base = value & 0xF8
        elif number == 4:
            self._auto_eoi = bool(value & ICW4.AEOI)

    def _ocw2(self, word: OCW2) -> None:
        number = word.L if word.SL else _lowest(self._isr, self._first)
        if word.EOI:
            if number < 8:
                self._isr &= ~(1 << number)
                if word.R:
                    self._first = number + 1 & 7
        elif word.SL and word.R:
            self._first = word.L + 1 & 7
        elif not word.SL:
            self._rotate_on_auto_eoi = bool(word.R)
        self.update()

    def _ocw3(self, word: OCW3) -> None:
        if word.ESMM:
            self._special_mask = word.SMM
        if word.P:
            self._poll = True
        elif word.RR:
            self._read_isr = word.RIS
        self.update()


class PicPair:
    """Sixteen inputs, one output. `output` is told when a CPU that listens is to be interrupted."""

    def __init__(self, output: Callable[[bool], None]) -> None:
        self.first = I8259(output)
        self.second = I8259(lambda level: self.first.set_input(CASCADE, level))
        self.elcr = (EdgeLevelControl(self.first, 0xF8), EdgeLevelControl(self.second, 0xDE))

    def set_input(self, number: int, level: bool) -> None:
        """IRQ `number`, 0 to 15, changed."""
        if number < 8:
            self.first.set_input(number, level)
        elif number < 16:
            self.second.set_input(number - 8, level)

    def acknowledge(self) -> int:
        """INTA: the vector of the interrupt that is served now."""
        number, vector = self.first.acknowledge()
        if number == CASCADE:
            self.first.set_input(CASCADE, False)  # if more is due there, it is a new edge
            _, vector = self.second.acknowledge()
            self.second.update()
        return vector

    def reset(self) -> None:
        """Both, and all inputs are edges again."""
        for elcr in self.elcr:
            elcr.port_write(0, 1, 0)
        self.second.reset()
        self.first.reset()


class EdgeLevelControl(PortRegion):
    """ELCR at 0x4D0 and 0x4D1: which inputs are levels, as PCI interrupts are."""

    size = 1

    def __init__(self, pic: I8259, writable: int) -> None:
        self._pic, self._writable = pic, writable

    def port_read(self, offset: int, width: int) -> int:
        """A bit an input."""
        return self._pic.level_triggered

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """The timer, the keyboard, the cascade, the clock and the FPU stay edges."""
        self._pic.level_triggered = value & self._writable
        return None
