"""The commands that a disk has, and announces, on SATA only; the queued ones are in `ncq`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from drivebay.ata.bad import write_uncorrectable
from drivebay.ata.command import Command
from drivebay.ata.logs import read_log, write_log
from drivebay.ata.registers import Opcode
from drivebay.ata.taskfile import TaskFile

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk

__all__ = ["SATA_COMMANDS"]

SATA_COMMANDS: Final[dict[int, Callable[[AtaDisk, TaskFile], Command]]] = {
    Opcode.READ_LOG_EXT: read_log,
    Opcode.READ_LOG_DMA_EXT: read_log,
    Opcode.WRITE_LOG_EXT: write_log,
    Opcode.WRITE_LOG_DMA_EXT: write_log,
    Opcode.WRITE_UNCORRECTABLE_EXT: write_uncorrectable,
}
