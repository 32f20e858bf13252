"""The commands that may go to a real drive: protocol, length and danger of each (ACS-3).

What is not in the table is never sent: queued commands, since commands go one by one; packets;
vendors' commands, of which nobody knows what they do. Retired commands are here if guests still
use them; their facts are ATA/ATAPI-6's.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from drivebay.ata.command import Aborted, Protocol
from drivebay.ata.passthrough.policy import Category
from drivebay.ata.registers import Opcode, SmartFeature, name_of
from drivebay.ata.taskfile import TaskFile

__all__ = ["BLOCK", "COMMANDS", "SUBCOMMANDS", "Length", "Row", "lookup"]

BLOCK: Final = 512
"""Bytes of what is not a sector: logs, parameters, firmware."""
SCT_COMMAND, SCT_DATA = 0xE0, 0xE1  # logs that are an SCT transport (ACS-3 section 8.1)


class Length(enum.Enum):
    """Where a command says how much data it moves."""

    NONE = "none"
    ONE = "one block"
    BLOCKS = "blocks in the count register"
    SECTORS = "sectors in the count register; 0 stands for the most it can hold and one more"
    LBA_LOW = "blocks in count and LBA low (DOWNLOAD MICROCODE, TRUSTED)"


@dataclass(frozen=True)
class Row:
    """One command. `needs` are the categories that must be allowed."""

    name: str
    needs: frozenset[Category]
    protocol: Protocol = Protocol.NON_DATA
    length: Length = Length.NONE
    ext: bool = False
    """Whether it takes 48-bit registers."""
    multiple: bool = False
    """Whether SET MULTIPLE MODE says how long its DRQ blocks are."""
    tells: bool = False
    """Whether its answer is in the registers: without them it has failed."""
    hours: bool = False
    """Whether it may take hours."""


READ = frozenset({Category.READ})
WRITE = frozenset({Category.WRITE})
ERASE = frozenset({Category.ERASE})
FIRMWARE = frozenset({Category.FIRMWARE})
SECURITY = frozenset({Category.SECURITY})
SETTINGS = frozenset({Category.SETTINGS})

NON_DATA, PIO_IN, PIO_OUT, DMA_IN, DMA_OUT = Protocol
ONE, BLOCKS, SECTORS, LBA_LOW = Length.ONE, Length.BLOCKS, Length.SECTORS, Length.LBA_LOW

COMMANDS: Final[dict[int, Row]] = {
    0x00: Row("NOP", READ),
    0x03: Row("CFA REQUEST EXTENDED ERROR", READ),
    0x06: Row("DATA SET MANAGEMENT", ERASE, DMA_OUT, BLOCKS, ext=True),
    0x0B: Row("REQUEST SENSE DATA EXT", READ, ext=True, tells=True),
    0x10: Row("RECALIBRATE", READ),
    0x20: Row("READ SECTORS", READ, PIO_IN, SECTORS),
    0x21: Row("READ SECTORS ONCE", READ, PIO_IN, SECTORS),
    0x24: Row("READ SECTORS EXT", READ, PIO_IN, SECTORS, ext=True),
    0x25: Row("READ DMA EXT", READ, DMA_IN, SECTORS, ext=True),
    0x27: Row("READ NATIVE MAX ADDRESS EXT", READ, ext=True, tells=True),
    0x29: Row("READ MULTIPLE EXT", READ, PIO_IN, SECTORS, ext=True, multiple=True),
    0x2A: Row("READ STREAM DMA EXT", READ, DMA_IN, SECTORS, ext=True),
    0x2B: Row("READ STREAM EXT", READ, PIO_IN, SECTORS, ext=True),
    0x2F: Row("READ LOG EXT", READ, PIO_IN, BLOCKS, ext=True),
    0x30: Row("WRITE SECTORS", WRITE, PIO_OUT, SECTORS),
    0x31: Row("WRITE SECTORS ONCE", WRITE, PIO_OUT, SECTORS),
    0x34: Row("WRITE SECTORS EXT", WRITE, PIO_OUT, SECTORS, ext=True),
    0x35: Row("WRITE DMA EXT", WRITE, DMA_OUT, SECTORS, ext=True),
    0x37: Row("SET MAX ADDRESS EXT", SETTINGS, ext=True),
    0x38: Row("CFA WRITE SECTORS WITHOUT ERASE", WRITE, PIO_OUT, SECTORS),
    0x39: Row("WRITE MULTIPLE EXT", WRITE, PIO_OUT, SECTORS, ext=True, multiple=True),
    0x3A: Row("WRITE STREAM DMA EXT", WRITE, DMA_OUT, SECTORS, ext=True),
    0x3B: Row("WRITE STREAM EXT", WRITE, PIO_OUT, SECTORS, ext=True),
    0x3D: Row("WRITE DMA FUA EXT", WRITE, DMA_OUT, SECTORS, ext=True),
    0x3F: Row("WRITE LOG EXT", SETTINGS, PIO_OUT, BLOCKS, ext=True),
    0x40: Row("READ VERIFY SECTORS", READ),
    0x41: Row("READ VERIFY SECTORS ONCE", READ),
    0x42: Row("READ VERIFY SECTORS EXT", READ, ext=True),
    0x45: Row("WRITE UNCORRECTABLE EXT", ERASE, ext=True),
    0x47: Row("READ LOG DMA EXT", READ, DMA_IN, BLOCKS, ext=True),
    0x51: Row("CONFIGURE STREAM", SETTINGS, ext=True),
    0x57: Row("WRITE LOG DMA EXT", SETTINGS, DMA_OUT, BLOCKS, ext=True),
    0x5B: Row("TRUSTED NON-DATA", SECURITY),
    0x5C: Row("TRUSTED RECEIVE", SECURITY, PIO_IN, LBA_LOW),
    0x5D: Row("TRUSTED RECEIVE DMA", SECURITY, DMA_IN, LBA_LOW),
    0x5E: Row("TRUSTED SEND", SECURITY, PIO_OUT, LBA_LOW),
    0x5F: Row("TRUSTED SEND DMA", SECURITY, DMA_OUT, LBA_LOW),
    0x70: Row("SEEK", READ),
    0x77: Row("SET DATE & TIME EXT", SETTINGS, ext=True),
    0x87: Row("CFA TRANSLATE SECTOR", READ, PIO_IN, ONE),
    0x91: Row("INITIALIZE DEVICE PARAMETERS", SETTINGS),
    0x92: Row("DOWNLOAD MICROCODE", FIRMWARE, PIO_OUT, LBA_LOW),
    0x93: Row("DOWNLOAD MICROCODE DMA", FIRMWARE, DMA_OUT, LBA_LOW),
    0x94: Row("STANDBY IMMEDIATE (old)", SETTINGS),
    0x95: Row("IDLE IMMEDIATE (old)", SETTINGS),
    0x96: Row("STANDBY (old)", SETTINGS),
    0x97: Row("IDLE (old)", SETTINGS),
    0x98: Row("CHECK POWER MODE (old)", READ, tells=True),
    0x99: Row("SLEEP (old)", SETTINGS),
    0xC0: Row("CFA ERASE SECTORS", ERASE),
    0xC4: Row("READ MULTIPLE", READ, PIO_IN, SECTORS, multiple=True),
    0xC5: Row("WRITE MULTIPLE", WRITE, PIO_OUT, SECTORS, multiple=True),
    0xC6: Row("SET MULTIPLE MODE", SETTINGS),
    0xC8: Row("READ DMA", READ, DMA_IN, SECTORS),
    0xC9: Row("READ DMA ONCE", READ, DMA_IN, SECTORS),
    0xCA: Row("WRITE DMA", WRITE, DMA_OUT, SECTORS),
    0xCB: Row("WRITE DMA ONCE", WRITE, DMA_OUT, SECTORS),
    0xCD: Row("CFA WRITE MULTIPLE WITHOUT ERASE", WRITE, PIO_OUT, SECTORS, multiple=True),
    0xCE: Row("WRITE MULTIPLE FUA EXT", WRITE, PIO_OUT, SECTORS, ext=True, multiple=True),
    0xE0: Row("STANDBY IMMEDIATE", SETTINGS),
    0xE1: Row("IDLE IMMEDIATE", SETTINGS),
    0xE2: Row("STANDBY", SETTINGS),
    0xE3: Row("IDLE", SETTINGS),
    0xE4: Row("READ BUFFER", READ, PIO_IN, ONE),
    0xE5: Row("CHECK POWER MODE", READ, tells=True),
    0xE6: Row("SLEEP", SETTINGS),
    0xE7: Row("FLUSH CACHE", READ),
    0xE8: Row("WRITE BUFFER", WRITE, PIO_OUT, ONE),
    0xE9: Row("READ BUFFER DMA", READ, DMA_IN, ONE),
    0xEA: Row("FLUSH CACHE EXT", READ, ext=True),
    0xEB: Row("WRITE BUFFER DMA", WRITE, DMA_OUT, ONE),
    0xEC: Row("IDENTIFY DEVICE", READ, PIO_IN, ONE),
    0xEF: Row("SET FEATURES", SETTINGS),
    0xF1: Row("SECURITY SET PASSWORD", SECURITY, PIO_OUT, ONE),
    0xF2: Row("SECURITY UNLOCK", SECURITY, PIO_OUT, ONE),
    0xF3: Row("SECURITY ERASE PREPARE", SECURITY | ERASE),
    0xF4: Row("SECURITY ERASE UNIT", SECURITY | ERASE, PIO_OUT, ONE, hours=True),
    0xF5: Row("SECURITY FREEZE LOCK", SECURITY),
    0xF6: Row("SECURITY DISABLE PASSWORD", SECURITY, PIO_OUT, ONE),
    0xF8: Row("READ NATIVE MAX ADDRESS", READ, tells=True),
}
"""Commands that mean one thing, by opcode."""

SUBCOMMANDS: Final[dict[int, Mapping[int, Row]]] = {
    0x78: {
        0x00: Row("GET NATIVE MAX ADDRESS EXT", READ, ext=True, tells=True),
        0x01: Row("SET ACCESSIBLE MAX ADDRESS EXT", SETTINGS, ext=True),
        0x02: Row("FREEZE ACCESSIBLE MAX ADDRESS EXT", SETTINGS, ext=True),
    },
    Opcode.SMART: {
        SmartFeature.READ_DATA: Row("SMART READ DATA", READ, PIO_IN, ONE),
        SmartFeature.READ_THRESHOLDS: Row("SMART READ THRESHOLDS", READ, PIO_IN, ONE),
        SmartFeature.ATTRIBUTE_AUTOSAVE: Row("SMART ATTRIBUTE AUTOSAVE", SETTINGS),
        SmartFeature.SAVE_ATTRIBUTES: Row("SMART SAVE ATTRIBUTES", SETTINGS),
        SmartFeature.EXECUTE_OFFLINE_IMMEDIATE: Row("SMART EXECUTE OFF-LINE", SETTINGS, hours=True),
        SmartFeature.READ_LOG: Row("SMART READ LOG", READ, PIO_IN, BLOCKS),
        SmartFeature.WRITE_LOG: Row("SMART WRITE LOG", SETTINGS, PIO_OUT, BLOCKS),
        SmartFeature.ENABLE_OPERATIONS: Row("SMART ENABLE OPERATIONS", SETTINGS),
        SmartFeature.DISABLE_OPERATIONS: Row("SMART DISABLE OPERATIONS", SETTINGS),
        SmartFeature.RETURN_STATUS: Row("SMART RETURN STATUS", READ, tells=True),
        0xDB: Row("SMART AUTO OFF-LINE", SETTINGS),
    },
    Opcode.DEVICE_CONFIGURATION: {
        0xC0: Row("DEVICE CONFIGURATION RESTORE", SETTINGS),
        0xC1: Row("DEVICE CONFIGURATION FREEZE LOCK", SETTINGS),
        0xC2: Row("DEVICE CONFIGURATION IDENTIFY", READ, PIO_IN, ONE),
        0xC3: Row("DEVICE CONFIGURATION SET", SETTINGS, PIO_OUT, ONE),
    },
    0xB4: {
        0x00: Row("SANITIZE STATUS EXT", READ, ext=True, tells=True),
        0x11: Row("CRYPTO SCRAMBLE EXT", ERASE, ext=True),
        0x12: Row("BLOCK ERASE EXT", ERASE, ext=True),
        0x14: Row("OVERWRITE EXT", ERASE, ext=True),
        0x20: Row("SANITIZE FREEZE LOCK EXT", SECURITY, ext=True),
        0x40: Row("SANITIZE ANTIFREEZE LOCK EXT", SECURITY, ext=True),
    },
    Opcode.SET_MAX_ADDRESS: {
        0x00: Row("SET MAX ADDRESS", SETTINGS),
        0x01: Row("SET MAX SET PASSWORD", SECURITY, PIO_OUT, ONE),
        0x02: Row("SET MAX LOCK", SECURITY),
        0x03: Row("SET MAX UNLOCK", SECURITY, PIO_OUT, ONE),
        0x04: Row("SET MAX FREEZE LOCK", SECURITY),
    },
}
"""Commands that the features register makes one of several."""

WRITE_LOGS: Final = (Opcode.WRITE_LOG_EXT, Opcode.WRITE_LOG_DMA_EXT, Opcode.SMART)


def lookup(taskfile: TaskFile) -> Row:
    """The row of the command in `taskfile`. Raises `Aborted` for one that is never sent."""
    opcode = taskfile.command
    subcommands = SUBCOMMANDS.get(opcode)
    row = COMMANDS.get(opcode)
    if subcommands is not None:
        row = subcommands.get(taskfile.features & 0xFF)
    if row is None or (row.ext and subcommands and taskfile.features >> 8):
        raise Aborted(why=f"{name_of(opcode)} is never sent")
    if opcode in WRITE_LOGS and row.needs == SETTINGS and row.length is BLOCKS:
        return _log_write(row, taskfile.lba_low & 0xFF)
    return row


def _log_write(row: Row, log: int) -> Row:
    """SCT commands are written as logs, and WRITE SAME is one of them (ACS-3 section 8.3.4)."""
    if log == SCT_COMMAND:
        return replace(row, needs=row.needs | ERASE)
    if log == SCT_DATA:
        return replace(row, needs=row.needs | WRITE)
    return row
