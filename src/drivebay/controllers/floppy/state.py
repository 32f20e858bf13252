"""Where a floppy controller's command is, and what commands have set."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from drivebay.controllers.floppy.registers import Configuration

__all__ = ["DRIVES", "NO_FIFO", "Phase", "Settings"]

DRIVES: Final = 4
NO_FIFO: Final = int(Configuration.EFIFO)


class Phase(enum.Enum):
    """Where the command under way is; before the first byte it is COMMAND, too."""

    COMMAND = "command"
    EXECUTE = "execute"
    DATA_IN = "data in"
    DATA_OUT = "data out"
    RESULT = "result"


@dataclass
class Settings:
    """What commands have set."""

    specify: bytes = bytes(2)
    configuration: int = NO_FIFO
    precompensation: int = 0
    perpendicular: int = 0
    lock: bool = False
    last_sector: int = 0
    """EOT or SC of the last command, for DUMPREG."""
    cylinders: list[int] = field(default_factory=lambda: [0] * DRIVES)
    """Where the controller believes the heads to be (PCN)."""
