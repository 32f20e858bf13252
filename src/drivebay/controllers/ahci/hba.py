"""The host bus adapter: generic registers, ports, and one interrupt (AHCI 1.3.1 section 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from drivebay.controllers.ahci.coalescing import Coalescing
from drivebay.controllers.ahci.port import Port
from drivebay.controllers.ahci.registers import (
    BOHC,
    CAP,
    CAP2,
    GHC,
    PORT_SIZE,
    PORTS_AT,
    GenericRegisters,
    Speed,
)
from drivebay.controllers.ahci.structures import SLOTS
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory

__all__ = ["Hba"]

guest_log = RationedLog(logging.getLogger(__name__))

MAX_PORTS: Final = 32
VERSION: Final = 0x00010301
AE, IE, HR = int(GHC.AE), int(GHC.IE), int(GHC.HR)
BOS, OOS, SOOE, OOC = int(BOHC.BOS), int(BOHC.OOS), int(BOHC.SOOE), int(BOHC.OOC)
NOWHERE: Final = GuestMemory()

Read = Callable[[], int]
Write = Callable[[int], None]


class Hba:
    """An adapter with `ports` ports, 1 to 32. `interrupt` is told its line's level, and whether
    that is news: then a message is due, if messages are sent.

    With `staggered` a drive spins up when the guest says so. `may_master` says whether it may reach
    memory. Raises `ValueError` for a number of ports that cannot be.
    """

    def __init__(
        self,
        memory: GuestMemory,
        engine: Engine,
        interrupt: Callable[[bool, bool], None],
        *,
        ports: int = 6,
        staggered: bool = False,
    ) -> None:
        if not 1 <= ports <= MAX_PORTS:
            raise ValueError(f"{ports} ports: AHCI has 1 to {MAX_PORTS}")
        self._memory = memory
        self.engine = engine
        self.staggered = staggered
        self.may_master = True
        self._interrupt = interrupt
        self._status = self._pending = 0
        self._control = AE
        self._ownership = 0
        self._resetting = False
        self.coalescing = Coalescing(engine, ports & 31, self._coalesced)
        self.ports = tuple(Port(self, number) for number in range(ports))
        end = PORTS_AT + ports * PORT_SIZE
        self.size = max(0x1000, 1 << (end - 1).bit_length())
        self._reads: dict[int, Read] = {}
        self._writes: dict[int, Write] = {}
        blocks = [(0, GenericRegisters.bind(self))]
        blocks += [(PORTS_AT + PORT_SIZE * port.number, port.registers) for port in self.ports]
        for base, registers in blocks:
            for offset, access in registers.items():
                if access.read is not None:
                    self._reads[base + offset] = access.read
                if access.write is not None:
                    self._writes[base + offset] = access.write

    @property
    def memory(self) -> GuestMemory:
        """What it may reach: nothing if it is no bus master, and everything it tries is a fault."""
        return self._memory if self.may_master else NOWHERE

    # -- access ----------------------------------------------------------------------------------

    def mmio_read(self, offset: int, width: int) -> int:
        """Registers are dwords, and can be read in parts and by two."""
        if width == 4 and not offset & 3:
            read = self._reads.get(offset)
            return read() if read is not None else 0
        value = 0
        for at in range(offset & ~3, offset + width, 4):
            read = self._reads.get(at)
            if read is not None:
                value |= read() << 8 * (at - (offset & ~3))
        return value >> 8 * (offset & 3) & (1 << 8 * width) - 1

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Registers are written as dwords, one or two; less is dropped (section 3)."""
        if offset & 3 or width < 4:
            guest_log.warning("ahci: %d bytes at %#x: dropped", width, offset)
            return
        for at in range(0, width, 4):
            write = self._writes.get(offset + at)
            if write is not None:
                write(value >> 8 * at & 0xFFFFFFFF)

    # -- registers -------------------------------------------------------------------------------

    def read_CAP(self) -> int:
        """Capabilities. Enclosure management and port multipliers are absent, and said to be."""
        return CAP.of(
            S64A=1,
            SNCQ=1,
            SSS=self.staggered,
            SALP=1,
            SCLO=1,
            ISS=Speed.GEN3,
            SAM=1,
            PMD=1,
            SSC=1,
            PSC=1,
            NCS_z=SLOTS - 1,
            CCCS=len(self.ports) < MAX_PORTS,
            NP_z=len(self.ports) - 1,
        )

    def read_GHC(self) -> int:
        """HR stays until nothing reaches memory any more."""
        if self._resetting:
            self._resetting = any(port.reaches_memory for port in self.ports)
        return self._control | (HR if self._resetting else 0)

    def write_GHC(self, value: int) -> None:
        """Interrupts, and reset; AHCI is always enabled."""
        if value & HR:
            self.reset(keep_addresses=True)
            self._resetting = True
            return
        before, self._control = self._control, AE | value & IE
        self._drive_line(news=not before & IE)

    def read_IS(self) -> int:
        """Ports that want to interrupt."""
        return self._status

    def write_IS(self, value: int) -> None:
        """Ones clear, but for what still is so."""
        self._status = self._status & ~value | self._pending
        self._drive_line(news=True)

    def read_PI(self) -> int:
        """Ports there are."""
        return (1 << len(self.ports)) - 1

    def read_VS(self) -> int:
        """1.3.1."""
        return VERSION

    def read_CCC_CTL(self) -> int:
        """Coalescing."""
        return self.coalescing.control

    def write_CCC_CTL(self, value: int) -> None:
        """Switch it; there must be a bit of IS for it."""
        if len(self.ports) < MAX_PORTS:
            self.coalescing.write_control(value)

    def read_CCC_PORTS(self) -> int:
        """Whose completions count."""
        return self.coalescing.ports

    def write_CCC_PORTS(self, value: int) -> None:
        """Choose them."""
        self.coalescing.ports = value & self.read_PI()

    def read_CAP2(self) -> int:
        """More capabilities."""
        return CAP2.of(BOH=1)

    def read_BOHC(self) -> int:
        """Who owns the adapter."""
        return self._ownership

    def write_BOHC(self, value: int) -> None:
        """The firmware gives it up as soon as the system wants it: nothing of it is under way."""
        before = self._ownership
        self._ownership = value & (BOS | OOS | SOOE) | before & OOC & ~value
        if value & OOS:
            self._ownership &= ~BOS
            if not before & OOS:
                self._ownership |= OOC

    # -- interrupts ------------------------------------------------------------------------------

    def port_changed(self, number: int, wants: bool) -> None:
        """Whether port `number` wants to interrupt."""
        bit, before = 1 << number, self._status
        if wants:
            self._pending |= bit
            self._status |= bit
        else:
            self._pending &= ~bit
        self._drive_line(news=self._status != before)

    def _coalesced(self) -> None:
        self._status |= 1 << self.coalescing.number
        self._drive_line(news=True)

    def _drive_line(self, *, news: bool = False) -> None:
        self._interrupt(bool(self._status and self._control & IE), news)

    # -- reset and saving ------------------------------------------------------------------------

    def reset(self, *, keep_addresses: bool) -> None:
        """All ports, as after power on; a reset by the guest keeps the addresses that it set."""
        self._control, self._status, self._pending = AE, 0, 0
        self.coalescing.reset()
        if not keep_addresses:
            self._ownership = 0
            self._resetting = False
        for port in self.ports:
            port.reset(keep_addresses=keep_addresses)
        self._drive_line()

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on."""
        return {
            "control": self._control,
            "status": self._status,
            "pending": self._pending,
            "ownership": self._ownership,
            "resetting": self._resetting,
            "coalescing": self.coalescing.save(),
            "ports": [port.save() for port in self.ports],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it is of another adapter."""
        if len(state["ports"]) != len(self.ports):
            raise ValueError("the saved state is of an AHCI adapter with other ports")
        for port, saved in zip(self.ports, state["ports"], strict=True):
            port.restore(saved)
        self._control, self._status = state["control"], state["status"]
        self._pending, self._ownership = state["pending"], state["ownership"]
        self._resetting = state["resetting"]
        self.coalescing.restore(state["coalescing"])
        self._drive_line()
        for port in self.ports:
            port.resume()
