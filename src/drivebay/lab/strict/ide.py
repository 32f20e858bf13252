"""What IDE drivers shall not do (ATA/ATAPI-6, the bus master programming interface 1.0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from drivebay.ata.registers import Opcode, Status
from drivebay.controllers.ide.channel import Channel
from drivebay.controllers.ide.registers import (
    BusMasterBlock,
    BusMasterCommand,
    BusMasterStatus,
    CommandBlock,
)
from drivebay.lab.strict.judge import Judge, Rule, Sins

__all__ = ["BusMasterJudge", "CommandBlockJudge", "ControlBlockJudge"]

ATA, MASTER = "ATA/ATAPI-6 section", "Bus Master IDE 1.0 section"
WORKING: Final = int(Status.BSY | Status.DRQ)
RESERVED: Final = 0x70
"""Of Device Control. Bit 3 was 1 once, and Linux still writes it so."""
DATA, COMMAND = CommandBlock.Data.offset, CommandBlock.Command.offset
MASTER_PORTS: Final = 8
"""Of each channel."""


class CommandBlockJudge(Judge):
    """Judges who drives `channel` by its Command Block."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule(
            "Data is accessed in 16 or 32 bits, the other registers in 8", f"{ATA} 7.2"
        ),
        "command-while-busy": Rule(
            "Command is written only while BSY and DRQ are 0, but for DEVICE RESET", f"{ATA} 7.4"
        ),
        "register-while-busy": Rule(
            "registers are written only while BSY and DRQ are 0", f"{ATA} 7.7 to 7.14"
        ),
        "data-without-request": Rule("Data is accessed only while DRQ is 1", f"{ATA} 7.6"),
        "command-in-reset": Rule(
            "nothing but Device Control is written while SRST is 1", f"{ATA} 9.2"
        ),
    }

    def __init__(self, channel: Channel, sins: Sins, name: str = "ide") -> None:
        super().__init__(sins, f"{name} channel {channel.number}")
        self._channel = channel

    def read(self, offset: int, width: int) -> None:
        """IN."""
        self._access(offset, width, "a read")

    def _access(self, offset: int, width: int, how: str) -> None:
        if (width == 1) == (offset == DATA):
            self.sin("access-width", f"{how} of {width} bytes at register {offset}")
        if offset == DATA and not self._channel.status() & Status.DRQ:
            self.sin("data-without-request", f"{how} of Data")

    def write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        status, how = self._channel.status(), f"a write of {value:#x} to register {offset}"
        self._access(offset, width, f"a write of {value:#x}")
        if self._channel.selected is None or offset == DATA:
            return
        if self._channel.in_reset:
            self.sin("command-in-reset", how)
        elif offset == COMMAND and status & WORKING and value != Opcode.DEVICE_RESET:
            self.sin("command-while-busy", f"command {value:#04x}, Status is {status:#04x}")
        elif offset != COMMAND and status & WORKING:
            self.sin("register-while-busy", f"{how}, Status is {status:#04x}")


class ControlBlockJudge(Judge):
    """Judges who drives it by its Control Block, whose one register is `at` the given offset."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule("Alternate Status and Device Control have 8 bits", f"{ATA} 7.3"),
        "reserved-bits": Rule("bits 4 to 6 of Device Control are written as 0", f"{ATA} 7.8"),
    }

    def __init__(self, channel: Channel, sins: Sins, at: int = 0, name: str = "ide") -> None:
        super().__init__(sins, f"{name} channel {channel.number}")
        self._at = at

    def read(self, offset: int, width: int) -> None:
        """IN."""
        if width != 1:
            self.sin("access-width", f"a read of {width} bytes")

    def write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        if width != 1:
            self.sin("access-width", f"a write of {width} bytes")
        if offset == self._at and value & RESERVED:
            self.sin("reserved-bits", f"a write of {value:#04x} to Device Control")


class BusMasterJudge(Judge):
    """Judges who drives the bus masters of `channels` by BAR4."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "direction-while-active": Rule(
            "the direction is not changed while the bus master is active", f"{MASTER} 2.1"
        ),
        "started-with-old-status": Rule(
            "Interrupt and Error are cleared before Start is set", f"{MASTER} 3.1"
        ),
        "table-not-aligned": Rule("the descriptor table is on 4 bytes", f"{MASTER} 2.3"),
    }

    def __init__(self, channels: Sequence[Channel], sins: Sins, name: str = "ide") -> None:
        super().__init__(sins, f"{name} bus master")
        self._channels = channels

    def write(self, offset: int, width: int, value: int) -> None:
        """OUT."""
        number, at = divmod(offset, MASTER_PORTS)
        master = self._channels[number].bus_master
        if at == BusMasterBlock.Command.offset:
            before, now = BusMasterCommand(master.read_Command()), BusMasterCommand(value)
            status = BusMasterStatus(master.read_Status())
            how = f"channel {number}: {value & 0xFF:#04x} to Command, Status is {status:#04x}"
            if before.Start and now.Start and before.ToMemory != now.ToMemory:
                self.sin("direction-while-active", how)
            if now.Start and not before.Start and (status.Interrupt or status.Error):
                self.sin("started-with-old-status", how)
        elif at == BusMasterBlock.RegionTable.offset and value & 3:
            self.sin("table-not-aligned", f"channel {number}: {value:#x} to RegionTable")
