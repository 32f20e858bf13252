"""What floppy drivers shall not do (82077AA data sheet 290166-007)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from drivebay.controllers.floppy import FloppyController
from drivebay.controllers.floppy.commands import COMMANDS, NEEDS_MOTOR
from drivebay.controllers.floppy.registers import (
    DigitalOutput,
    FloppyBlock,
    MainStatus,
    Opcode,
    Status0,
)
from drivebay.controllers.floppy.transfer import Select
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
        "no-such-command": Rule("there is no such command", f"{SHEET} 5, table 5-1"),
        "sense-without-interrupt": Rule(
            "SENSE INTERRUPT STATUS is issued only while an interrupt waits for it",
            f"{SHEET} 5.2.4",
        ),
        "seek-not-sensed": Rule(
            "SEEK and RECALIBRATE are terminated by SENSE INTERRUPT STATUS", f"{SHEET} 5.2.2, 5.2.3"
        ),
        "motor-off": Rule(
            "the motor of a drive is on while its disk is read or written", f"{SHEET} 2.1"
        ),
    }

    def __init__(self, controller: FloppyController, sins: Sins, name: str = "floppy") -> None:
        super().__init__(sins, name)
        self._controller = controller
        self._command: int | None = None  # whose first parameter is to come

    def read(self, offset: int, width: int) -> None:
        """IN."""
        self._access(offset, width, f"a read of {width} bytes at {offset}", inward=True)

    def write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        self._access(offset, width, f"a write of {value:#x} at {offset}", inward=False)
        if offset == FIFO:
            self._byte(value)

    def _byte(self, value: int) -> None:
        """Of a command, if its turn it is."""
        status = MainStatus(self._controller.read_MainStatus())
        begun, self._command = self._command, None
        if not status.RQM or status.DIO or status.NonDma:
            return
        if not status.Busy:
            self._begin(value)
        elif begun is not None:
            drive = Select(value).DS
            if not DigitalOutput(self._controller.read_DigitalOutput()).motor_on(drive):
                self.sin("motor-off", f"{COMMANDS[begun].name} of drive {drive}")

    def _begin(self, opcode: int) -> None:
        command, pending = COMMANDS.get(opcode), self._controller.pending
        if command is None:
            self.sin("no-such-command", f"opcode {opcode:#04x}")
        elif command.opcode is Opcode.SENSE_INTERRUPT_STATUS:
            if not pending:
                self.sin("sense-without-interrupt", command.name)
        elif command.opcode in NEEDS_MOTOR:
            self._command = opcode
            for drive, status in pending.items():
                if status & Status0.SE:
                    self.sin("seek-not-sensed", f"{command.name} after a seek of drive {drive}")

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
