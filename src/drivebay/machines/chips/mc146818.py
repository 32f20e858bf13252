"""The MC146818 clock of a PC with its CMOS RAM, where firmware finds how much memory there is.

Time begins at a date of its own, the same in each run, and is the machine's virtual time. The
update, alarm and periodic interrupts are not there.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from drivebay.machines.chips.clock import Clock
from drivebay.platform.ports import Hold, PortRegion
from drivebay.wire import At, Bit, Bits, Register8, RegisterMap

__all__ = ["Mc146818"]

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
VALID: Final = 0x80  # register D: the battery is good
MIB: Final = 1 << 20


class RegisterA(Register8):
    """Update in progress, and the divider."""

    UIP = Bit(7)
    DV = Bits(6, 4)
    RS = Bits(3, 0)


class RegisterB(Register8):
    """How it counts: 24 hours, binary."""

    SET = Bit(7)
    DM = Bit(2)  # binary, not BCD
    HOUR24 = Bit(1)


class FloppyKinds(Register8):
    """What floppy drives there are."""

    A = Bits(7, 4)
    B = Bits(3, 0)


class Equipment(Register8):
    """What else there is."""

    Floppies = Bits(7, 6)  # less one
    Floppy = Bit(0)  # any


class Cmos(RegisterMap):
    """The bytes with a meaning: the data sheet's, then those of PC firmware."""

    SECONDS = At(0x00, Register8)
    MINUTES = At(0x02, Register8)
    HOURS = At(0x04, Register8)
    WEEKDAY = At(0x06, Register8)
    DAY = At(0x07, Register8)
    MONTH = At(0x08, Register8)
    YEAR = At(0x09, Register8)
    A = At(0x0A, RegisterA)
    B = At(0x0B, RegisterB)
    C = At(0x0C, Register8)
    D = At(0x0D, Register8)
    FLOPPIES = At(0x10, FloppyKinds)
    EQUIPMENT = At(0x14, Equipment)
    BASE_LOW = At(0x15, Register8)  # KiB below 640K
    BASE_HIGH = At(0x16, Register8)
    EXTENDED_LOW = At(0x17, Register8)  # KiB above 1 MiB, 63 MiB at most
    EXTENDED_HIGH = At(0x18, Register8)
    EXTENDED2_LOW = At(0x30, Register8)  # the same again
    EXTENDED2_HIGH = At(0x31, Register8)
    CENTURY = At(0x32, Register8)
    ABOVE_16M_LOW = At(0x34, Register8)  # 64 KiB units
    ABOVE_16M_HIGH = At(0x35, Register8)
    BOOT_THIRD = At(0x38, Register8)  # SeaBIOS: the third boot device in bits 7-4
    BOOT_FIRST = At(0x3D, Register8)  # the first in bits 3-0, the second in bits 7-4


class Mc146818(PortRegion):
    """Ports 0x70 (index; bit 7 masks NMI) and 0x71 (data)."""

    size = 2

    def __init__(self, clock: Clock, ram_size: int) -> None:
        self._clock = clock
        self._index = 0
        self._bytes = bytearray(128)
        self._handlers = Cmos.bind(self)
        store = self._store
        store(Cmos.A, RegisterA.of(DV=2, RS=6))
        store(Cmos.B, RegisterB.of(HOUR24=1))
        store(Cmos.D, VALID)
        extended = min(ram_size - MIB, 63 * MIB) >> 10
        for low, high, value in (
            (Cmos.BASE_LOW, Cmos.BASE_HIGH, 640),
            (Cmos.EXTENDED_LOW, Cmos.EXTENDED_HIGH, extended),
            (Cmos.EXTENDED2_LOW, Cmos.EXTENDED2_HIGH, extended),
            (Cmos.ABOVE_16M_LOW, Cmos.ABOVE_16M_HIGH, max(ram_size - 16 * MIB, 0) >> 16),
        ):
            store(low, value & 0xFF)
            store(high, value >> 8)

    def _store(self, at: At, value: int) -> None:
        self._bytes[at.offset] = value

    def set_boot_order(self, *devices: int) -> None:
        """What SeaBIOS tries: 1 is the floppy, 2 the hard disk, 3 the CD."""
        first, second, third = (*devices, 0, 0, 0)[:3]
        self._store(Cmos.BOOT_FIRST, second << 4 | first)
        self._store(Cmos.BOOT_THIRD, third << 4)

    def set_floppies(self, first: int, second: int) -> None:
        """The kinds of drive A and B, 0 where there is none."""
        count = bool(first) + bool(second)
        equipment = Equipment(self._bytes[Cmos.EQUIPMENT.offset])
        self._store(Cmos.FLOPPIES, FloppyKinds.of(A=first, B=second))
        self._store(
            Cmos.EQUIPMENT, equipment.replace(Floppy=bool(count), Floppies=max(count - 1, 0))
        )

    def port_read(self, offset: int, width: int) -> int:
        """The byte that the index names; the index itself cannot be read."""
        if not offset:
            return 0xFF
        handler = self._handlers.get(self._index)
        if handler is not None and handler.read is not None:
            return handler.read()
        return self._bytes[self._index]

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        """Set the index, or the byte it names. A date that is set is not kept."""
        if not offset:
            self._index = value & 0x7F
        else:
            self._bytes[self._index] = value & 0xFF
        return None

    # -- the date --------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return EPOCH + timedelta(microseconds=self._clock.look() // 1000)

    def _shown(self, number: int) -> int:
        binary = RegisterB(self._bytes[Cmos.B.offset]).DM
        return number if binary else number // 10 << 4 | number % 10

    def read_SECONDS(self) -> int:
        """0 to 59."""
        return self._shown(self._now().second)

    def read_MINUTES(self) -> int:
        """0 to 59."""
        return self._shown(self._now().minute)

    def read_HOURS(self) -> int:
        """0 to 23."""
        return self._shown(self._now().hour)

    def read_WEEKDAY(self) -> int:
        """1 is Sunday."""
        return self._shown(self._now().isoweekday() % 7 + 1)

    def read_DAY(self) -> int:
        """Of the month."""
        return self._shown(self._now().day)

    def read_MONTH(self) -> int:
        """1 to 12."""
        return self._shown(self._now().month)

    def read_YEAR(self) -> int:
        """Of the century."""
        return self._shown(self._now().year % 100)

    def read_CENTURY(self) -> int:
        """20."""
        return self._shown(self._now().year // 100)

    def read_A(self) -> int:
        """UIP is up for 2 ms of each second, so that whoever waits for an edge sees one."""
        updating = self._clock.look() % 1_000_000_000 >= 998_000_000
        return RegisterA(self._bytes[Cmos.A.offset]).replace(UIP=updating)

    def read_D(self) -> int:
        """The battery is good."""
        return VALID
