"""The 8254 timer of a PC and the port that gates its third counter (0x61).

Sections are of Intel's data sheet 231164-005. Counters count in binary only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.machines.chips.clock import Alarm, Clock
from drivebay.platform.interrupts import Line
from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import Bit, Bits, Register8

__all__ = ["I8254", "SystemControlB"]

HERTZ: Final = 1193182
SECOND: Final = 1_000_000_000
READ_BACK: Final = 3
LOW, HIGH, BOTH = 1, 2, 3


class ControlWord(Register8):
    """Selects a counter and says how it counts and is accessed."""

    SC = Bits(7, 6)  # the counter, or 3: read back
    RW = Bits(5, 4)  # 0: latch the count
    M = Bits(3, 1)
    BCD = Bit(0)


class ReadBack(Register8):
    """The control word with SC 3."""

    COUNT = Bit(5)  # 0: latch the count
    STATUS = Bit(4)  # 0: latch the status
    COUNTERS = Bits(3, 1)


class Counter:
    """One counter. `rises` is called when its output goes up, if somebody wants to know."""

    def __init__(self, clock: Clock, rises: Callable[[], None] | None = None) -> None:
        self._clock, self._rises = clock, rises
        self._alarm: Alarm | None = None
        self._gate = True
        self._mode, self._access = 3, BOTH
        self._reload = 0x10000
        self._started = 0
        self._paused: int | None = None  # ticks gone when the gate closed
        self._low: int | None = None  # the first byte of a count of two
        self._latched: list[int] = []
        self._second_byte = False

    def program(self, word: ControlWord) -> None:
        """A control word: the count follows."""
        if word.RW == 0:
            self.latch_count()
            return
        self._mode = word.M & 3 if word.M > 5 else word.M  # modes 6 and 7 are 2 and 3
        self._access = word.RW
        self._low, self._second_byte, self._latched = None, False, []
        self._stop()

    def write(self, value: int) -> None:
        """A byte of the count, which starts it when it is whole."""
        if self._access == BOTH and self._low is None:
            self._low = value
            return
        count = value << 8 | (self._low or 0) if self._access != LOW else value
        self._low = None
        self._reload = count or 0x10000
        self._start()

    def read(self) -> int:
        """A byte of what was latched, or of the count as it is."""
        if self._latched:
            return self._latched.pop(0)
        low, high = self._bytes()
        if self._access != BOTH:
            return low if self._access == LOW else high
        self._second_byte = not self._second_byte
        return low if self._second_byte else high

    def latch_count(self) -> None:
        """Keep the count to be read."""
        if not self._latched:
            low, high = self._bytes()
            self._latched = {LOW: [low], HIGH: [high]}.get(self._access, [low, high])

    def latch_status(self) -> None:
        """Keep the status to be read before the count."""
        self._latched.insert(0, self.output << 7 | self._access << 4 | self._mode << 1)

    def set_gate(self, gate: bool) -> None:
        """The gate opens or closes (section "Gate": modes 0 and 4 pause, the others begin anew)."""
        if gate == self._gate:
            return
        ticks = self._ticks()
        self._gate = gate
        if self._mode not in (0, 4):
            if gate:
                self._start()
        elif gate:
            self._started = self._clock.now - (self._paused or 0) * SECOND // HERTZ
            self._paused = None
        else:
            self._paused = ticks

    def _bytes(self) -> tuple[int, int]:
        self._clock.look()
        count = self._count() & 0xFFFF
        return count & 0xFF, count >> 8

    def _ticks(self) -> int:
        if self._paused is not None:
            return self._paused
        return (self._clock.now - self._started) * HERTZ // SECOND

    def _count(self) -> int:
        ticks = self._ticks()
        if self._mode == 2:
            return self._reload - ticks % self._reload
        if self._mode == 3:
            return self._reload - ticks * 2 % self._reload
        return self._reload - ticks

    @property
    def output(self) -> bool:
        """The level of the output."""
        ticks = self._ticks()
        if self._mode == 2:
            return ticks % self._reload != self._reload - 1
        if self._mode == 3:
            return ticks % self._reload * 2 < self._reload
        if self._mode in (4, 5):
            return ticks != self._reload
        return ticks >= self._reload

    def _stop(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _start(self) -> None:
        self._stop()
        self._started = self._clock.now
        self._paused = None if self._gate or self._mode not in (0, 4) else 0
        if self._rises is not None:
            self._await(1)

    def _await(self, round_: int) -> None:
        due = self._started + -(-round_ * self._reload * SECOND // HERTZ)
        self._alarm = self._clock.at(due, lambda: self._up(round_))

    def _up(self, round_: int) -> None:
        assert self._rises is not None
        if self._mode in (2, 3):
            self._await(round_ + 1)
        self._rises()


class I8254(PortRegion):
    """Three counters at four ports; the first interrupts by `line`."""

    size = 4

    def __init__(self, clock: Clock, line: Line) -> None:
        self._clock, self._line = clock, line
        self.reset()

    def reset(self) -> None:
        """The counters count, but nobody has asked for interrupts."""
        self._line.set(False)
        self.counters = [Counter(self._clock, self._tick), *(Counter(self._clock) for _ in (1, 2))]

    def _tick(self) -> None:
        self._line.set(False)
        self._line.set(True)

    def port_read(self, offset: int, width: int) -> int:
        """A byte of a counter; the control word cannot be read."""
        return self.counters[offset].read() if offset < 3 else 0xFF

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """A byte of a count, or a control word."""
        if offset < 3:
            self.counters[offset].write(value & 0xFF)
            return None
        word = ControlWord(value & 0xFF)
        if word.SC != READ_BACK:
            self.counters[word.SC].program(word)
            return None
        read_back = ReadBack(word)
        for number, counter in enumerate(self.counters):
            if read_back.COUNTERS >> number & 1:
                if not read_back.COUNT:
                    counter.latch_count()
                if not read_back.STATUS:
                    counter.latch_status()
        return None


class ControlB(Register8):
    """Port 0x61."""

    OUT2 = Bit(5)
    REFRESH = Bit(4)
    SPEAKER = Bit(1)
    GATE2 = Bit(0)


class SystemControlB(PortRegion):
    """Port 0x61: the third counter's gate and output, and a bit that toggles with the refresh."""

    size = 1

    def __init__(self, clock: Clock, pit: I8254) -> None:
        self._clock, self._pit = clock, pit
        self._value = 0

    def port_read(self, offset: int, width: int) -> int:
        """The gate as written, and what can be seen of time."""
        refresh = self._clock.look() // 15085 & 1
        return self._value | ControlB.of(OUT2=self._pit.counters[2].output, REFRESH=refresh)

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Open or close the gate."""
        self._value = value & (ControlB.GATE2 | ControlB.SPEAKER)
        self._pit.counters[2].set_gate(bool(value & ControlB.GATE2))
        return None
