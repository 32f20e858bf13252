"""What AHCI drivers shall not do (Serial ATA AHCI 1.3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from drivebay.controllers.ahci.hba import Hba
from drivebay.controllers.ahci.port import Port
from drivebay.controllers.ahci.registers import (
    GHC,
    PORT_SIZE,
    PORTS_AT,
    Detection,
    GenericRegisters,
    PortRegisters,
    PxCMD,
    PxSSTS,
)
from drivebay.lab.strict.judge import Judge, Rule, Sins

__all__ = ["AhciJudge"]

AHCI: Final = "AHCI 1.3.1 section"
BSY_DRQ: Final = 0x88
LIST: Final = frozenset({"PxCLB", "PxCLBU"})
RECEIVED: Final = frozenset({"PxFB", "PxFBU"})


class AhciJudge(Judge):
    """Judges who drives `hba` by BAR5."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule("registers are accessed in aligned dwords", f"{AHCI} 3"),
        "access-in-reset": Rule("while GHC.HR is 1 nothing else is accessed", f"{AHCI} 10.4.3"),
        "no-such-port": Rule("a port that PI does not name is not accessed", f"{AHCI} 3.1.4"),
        "list-moved-while-running": Rule(
            "PxCLB is changed only while ST and CR are 0", f"{AHCI} 3.3.1"
        ),
        "area-moved-while-receiving": Rule(
            "PxFB is changed only while FRE and FR are 0", f"{AHCI} 3.3.3"
        ),
        "started-without-receiving": Rule("ST is set only while FRE is 1", f"{AHCI} 10.3.1"),
        "started-before-stopped": Rule("ST is set only while CR is 0", f"{AHCI} 10.3.1"),
        "started-without-drive": Rule("ST is set only where PxSSTS.DET is 3", f"{AHCI} 10.3.1"),
        "started-while-busy": Rule("ST is set only while BSY and DRQ are 0", f"{AHCI} 10.3.1"),
        "receiving-ended-while-running": Rule(
            "FRE is cleared only while ST and CR are 0", f"{AHCI} 10.3.2"
        ),
        "override-while-running": Rule("CLO is set only while ST is 0", f"{AHCI} 3.3.7"),
        "issued-while-stopped": Rule(
            "PxCI and PxSACT are set only while ST is 1", f"{AHCI} 3.3.14"
        ),
        "slot-in-use": Rule("a slot is issued again only when it has ended", f"{AHCI} 5.5.1"),
    }

    def __init__(self, hba: Hba, sins: Sins, name: str = "ahci") -> None:
        super().__init__(sins, name)
        self._hba = hba

    def _access(self, offset: int, width: int) -> tuple[str, Port | None]:
        """Which register of which port."""
        if width != 4 or offset & 3:
            self.sin("access-width", f"{width} bytes at {offset:#x}")
        if offset < PORTS_AT:
            found = GenericRegisters.at(offset)
            return found[0] if found else "", None
        number, at = divmod(offset - PORTS_AT, PORT_SIZE)
        if number >= len(self._hba.ports):
            self.sin("no-such-port", f"an access to {offset:#x}, port {number}")
            return "", None
        found = PortRegisters.at(at)
        return found[0] if found else "", self._hba.ports[number]

    def read(self, offset: int, width: int) -> None:
        """A load."""
        name, _ = self._access(offset, width)
        if name != "GHC" and GHC(self._hba.read_GHC()).HR:
            self.sin("access-in-reset", f"a read of {name}")

    def write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        name, port = self._access(offset, width)
        if GHC(self._hba.read_GHC()).HR:
            self.sin("access-in-reset", f"a write of {value:#x} to {name}")
        if port is not None and name:
            self._write_port(port, name, value)

    def _write_port(self, port: Port, name: str, value: int) -> None:
        command, how = PxCMD(port.read_PxCMD()), f"port {port.number}: {value:#x} to {name}"
        if name in LIST and (command.ST or command.CR) and value != self._was(port, name):
            self.sin("list-moved-while-running", how)
        elif name in RECEIVED and (command.FRE or command.FR) and value != self._was(port, name):
            self.sin("area-moved-while-receiving", how)
        elif name == "PxCMD":
            self._command(port, command, PxCMD(value), how)
        elif name in ("PxCI", "PxSACT") and value:
            if not command.ST:
                self.sin("issued-while-stopped", how)
            if value & self._was(port, name):
                self.sin("slot-in-use", how)

    @staticmethod
    def _was(port: Port, name: str) -> int:
        value: int = getattr(port, f"read_{name}")()
        return value

    def _command(self, port: Port, before: PxCMD, now: PxCMD, how: str) -> None:
        if now.ST and not before.ST:
            if not (before.FRE or now.FRE):
                self.sin("started-without-receiving", how)
            if before.CR:
                self.sin("started-before-stopped", how)
            if PxSSTS(port.read_PxSSTS()).DET != Detection.ESTABLISHED:
                self.sin("started-without-drive", how)
            elif port.read_PxTFD() & BSY_DRQ and not now.CLO:
                self.sin("started-while-busy", how)
        if before.FRE and not now.FRE and (before.ST or before.CR) and now.ST | before.CR:
            self.sin("receiving-ended-while-running", how)
        if now.CLO and now.ST and before.ST:
            self.sin("override-while-running", how)
