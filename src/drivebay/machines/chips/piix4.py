"""The 82371AB (PIIX4) without its IDE function: the ISA bridge that routes PCI interrupts, and the
power management function with the timer that firmware waits by.

Sections are of Intel's data sheet 290562-001.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from drivebay.machines.chips.clock import Clock
from drivebay.platform.pci import PciFunction, PciIdentity
from drivebay.platform.ports import Hold, PortRegion, PortSpace
from drivebay.wire import At, Bit, Bits, Register8, Register16, Register32, RegisterMap

__all__ = ["Piix4Isa", "Piix4Power"]

PM_TIMER_HERTZ: Final = 3579545
SECOND: Final = 1_000_000_000


class PIRQRC(Register8):
    """Which interrupt a PCI line becomes (section 4.1.10)."""

    IRQROUTEEN = Bit(7)  # 1: none
    IRQROUTE = Bits(3, 0)


class IsaRegisters(RegisterMap):
    """What is kept of function 0's registers."""

    PIRQRCA = At(0x60, PIRQRC)
    PIRQRCB = At(0x61, PIRQRC)
    PIRQRCC = At(0x62, PIRQRC)
    PIRQRCD = At(0x63, PIRQRC)


class Piix4Isa(PciFunction):
    """Function 0. `irq` is told the levels of interrupts 0 to 15 that PCI lines hold up."""

    registers = IsaRegisters

    def __init__(self, irq: Callable[[int, bool], None]) -> None:
        self._irq = irq
        self._lines = [False] * 4
        self._held: frozenset[int] = frozenset()
        super().__init__(PciIdentity(0x8086, 0x7110, 0x060100))
        for at in IsaRegisters.registers.values():
            self.declare(at.offset, 1, PIRQRC.of(IRQROUTEEN=1), writable=0x8F)

    def set_line(self, number: int, level: bool) -> None:
        """PIRQ A to D (0 to 3) changed."""
        self._lines[number] = level
        self._route(0)

    def _route(self, _value: int) -> None:
        routes = (PIRQRC(self.config[at.offset]) for at in IsaRegisters.registers.values())
        held = frozenset(
            int(route.IRQROUTE)
            for level, route in zip(self._lines, routes, strict=True)
            if level and not route.IRQROUTEEN
        )
        before, self._held = self._held, held
        for number in before - held:
            self._irq(number, False)
        for number in held - before:
            self._irq(number, True)

    write_PIRQRCA = write_PIRQRCB = write_PIRQRCC = write_PIRQRCD = _route  # noqa: N815


class PMBA(Register32):
    """Where the power management registers are (section 7.1.9)."""

    ADDRESS = Bits(15, 6)


class PMREGMISC(Register8):
    """Whether they are there (section 7.1.32)."""

    PMIOSE = Bit(0)


class PowerRegisters(RegisterMap):
    """What is kept of function 3's registers."""

    PMBA = At(0x40, PMBA)
    DEVACTB = At(0x58, Register32)
    PMREGMISC = At(0x80, PMREGMISC)


APMC_ENABLED: Final = 1 << 25  # DEVACTB: firmware takes it that system management mode is set up


class PMCNTRL(Register16):
    """Sleeping (section 7.2.3)."""

    SUS_EN = Bit(13)
    SUS_TYP = Bits(12, 10)
    SCI_EN = Bit(0)


class PowerPorts(RegisterMap):
    """The first of the ports at PMBA (section 7.2)."""

    PMSTS = At(0x00, Register16)
    PMEN = At(0x02, Register16)
    PMCNTRL = At(0x04, PMCNTRL)
    PMTMR = At(0x08, Register32)


class _Ports(PortRegion):
    """64 ports at PMBA, 16- and 32-bit accesses as the registers are wide."""

    size = 0x40

    def __init__(self, clock: Clock, power_off: Callable[[], None]) -> None:
        self._clock, self._power_off = clock, power_off
        self._registers = PowerPorts.bind(self)
        self.control = self.enabled = 0

    def port_read(self, offset: int, width: int) -> int:
        register = self._registers.get(offset)
        value = register.read() if register is not None and register.read is not None else 0
        return value & (1 << 8 * width) - 1

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        register = self._registers.get(offset)
        if register is not None and register.write is not None:
            register.write(value & 0xFFFF)
        return None

    def read_PMEN(self) -> int:
        return self.enabled

    def write_PMEN(self, value: int) -> None:
        self.enabled = value

    def read_PMCNTRL(self) -> int:
        return self.control

    def write_PMCNTRL(self, value: int) -> None:
        self.control = value & ~PMCNTRL.SUS_EN
        if value & PMCNTRL.SUS_EN and PMCNTRL(value).SUS_TYP == 0:  # soft off
            self._power_off()

    def read_PMTMR(self) -> int:
        """24 bits, at 3.579545 MHz."""
        return self._clock.look() * PM_TIMER_HERTZ // SECOND & 0xFFFFFF


class Piix4Power(PciFunction):
    """Function 3. `power_off` is called when the guest switches the machine off."""

    registers = PowerRegisters

    def __init__(self, clock: Clock, ports: PortSpace, power_off: Callable[[], None]) -> None:
        self._io = ports
        self._block = _Ports(clock, power_off)
        self._unmap: Callable[[], None] | None = None
        super().__init__(PciIdentity(0x8086, 0x7113, 0x068000, interrupt_pin=1))
        self.declare(PowerRegisters.PMBA.offset, 4, 1, writable=PMBA.ADDRESS)
        self.declare(PowerRegisters.DEVACTB.offset, 4, APMC_ENABLED)
        self.declare(PowerRegisters.PMREGMISC.offset, 1, writable=PMREGMISC.PMIOSE)

    def write_PMBA(self, _value: int) -> None:
        """The ports move, if they are there."""
        if self._unmap is not None:
            self._unmap()
            self._unmap = None
        base = PMBA(int.from_bytes(self.config[0x40:0x44], "little")) & PMBA.ADDRESS
        if base and self.config[PowerRegisters.PMREGMISC.offset] & PMREGMISC.PMIOSE:
            self._unmap = self._io.map(base, self._block)

    write_PMREGMISC = write_PMBA  # noqa: N815

    def reset(self) -> None:
        """The ports are nowhere, and nothing is enabled."""
        super().reset()
        self._block.control = self._block.enabled = 0
        self.write_PMBA(0)

    def restore(self, state: Any) -> None:
        """Take up a saved state."""
        super().restore(state)
        self.write_PMBA(0)
