"""What floppy drivers shall not do (82077AA data sheet 290166-007)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from drivebay.controllers.floppy import FloppyController
from drivebay.controllers.floppy.registers import FloppyBlock, MainStatus
from drivebay.lab.strict.judge import Judge, Rule, Sins

__all__ = ["FloppyJudge"]

SHEET: Final = "82077AA data sheet section"
FIFO: Final = FloppyBlock.Fifo.offset


class FloppyJudge(Judge):
    """Judges who drives `controller` by the ports from 0x3F0 on."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule("the registers have 8 bits", f"{SHEET} 2.1"),
        "fifo-not-ready": Rule("the FIFO is accessed only while MSR.RQM is 1", f"{SHEET} 2.1"),
        "fifo-other-way": Rule(
            "the FIFO is read while MSR.DIO is 1, and written while it is 0", f"{SHEET} 2.1"
        ),
    }

    def __init__(self, controller: FloppyController, sins: Sins, name: str = "floppy") -> None:
        super().__init__(sins, name)
        self._controller = controller

    def read(self, offset: int, width: int) -> None:
        """IN."""
        self._access(offset, width, f"a read of {width} bytes at {offset}", inward=True)

    def write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        self._access(offset, width, f"a write of {value:#x} at {offset}", inward=False)

    def _access(self, offset: int, width: int, how: str, *, inward: bool) -> None:
        if width != 1:
            self.sin("access-width", how)
        if offset != FIFO:
            return
        status = MainStatus(self._controller.read_MainStatus())
        if not status.RQM:
            self.sin("fifo-not-ready", f"{how}, MSR is {int(status):#04x}")
        elif inward != status.DIO:
            self.sin("fifo-other-way", f"{how}, MSR is {int(status):#04x}")
