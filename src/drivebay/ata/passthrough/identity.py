"""IDENTIFY DEVICE data of a real drive: what is read out of it, and what the guest is not told."""

from __future__ import annotations

from typing import Final, NamedTuple

from drivebay.ata.command import Aborted
from drivebay.ata.identify import SIGNATURE, IdentifyData, PhysicalSector, checksummed
from drivebay.ata.passthrough.cdb import encode
from drivebay.ata.passthrough.sense import failed
from drivebay.ata.passthrough.table import BLOCK, COMMANDS
from drivebay.ata.passthrough.transport import Transport
from drivebay.ata.registers import Opcode, TransferMode
from drivebay.ata.sata_words import SataAdditional, SataCapabilities
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.errors import InvalidInput

__all__ = ["Modes", "chosen", "identify", "multiple_of", "sector_of", "shown"]

IDENTIFY_SECONDS: Final = 30.0
NOT_ATA: Final = 0x8000  # of word 0
MULTIPLE_VALID: Final = 0x100  # of word 59
QUEUED: Final = SataCapabilities.of(NCQ=1) | 1 << 11 | 1 << 12  # unload, priority
TRIM: Final = 1  # of word 169
MODES: Final = 0x7F00  # the selected modes in words 63 and 88


def identify(transport: Transport, *, short: bool = False) -> bytes:
    """Ask a drive for its IDENTIFY DEVICE data, 512 bytes; may block. Raises `OSError` if it cannot
    be reached, `InvalidInput` if it is no ATA disk.
    """
    taskfile = TaskFile()
    taskfile.command = Opcode.IDENTIFY_DEVICE
    cdb = encode(COMMANDS[Opcode.IDENTIFY_DEVICE], taskfile, short=short)
    data = bytearray(BLOCK)
    status, sense, residual = transport.execute(cdb, "in", [memoryview(data)], IDENTIFY_SECONDS)
    if failed(status, sense, pio_in=True) or residual or not any(data):
        raise InvalidInput("it does not answer IDENTIFY DEVICE: no ATA disk")
    return bytes(data)


def sector_of(data: bytes) -> int:
    """Bytes of a logical sector (words 106 and 117). Raises `InvalidInput` if this is not the data
    of an ATA disk.
    """
    if len(data) != BLOCK:
        raise InvalidInput(f"IDENTIFY DEVICE data has {BLOCK} bytes, not {len(data)}")
    known = IdentifyData.unpack(data)
    if known.general_configuration & NOT_ATA:
        raise InvalidInput("a packet device, no ATA disk")
    physical = PhysicalSector(known.physical_sector)
    if physical.VALID and physical.LONG:
        return 2 * known.logical_sector_words
    return BLOCK


def multiple_of(data: bytes) -> int:
    """Sectors of a DRQ block of the MULTIPLE commands, 0 if none are chosen (word 59)."""
    multiple = IdentifyData.unpack(data).current_multiple
    return multiple & 0xFF if multiple & MULTIPLE_VALID else 0


class Modes(NamedTuple):
    """The selected DMA modes: at most one is."""

    ultra_dma: int | None = None
    multiword_dma: int | None = None


def chosen(data: bytes, count: int) -> Modes | None:
    """What SET TRANSFER MODE with `count` selects; None if that is a PIO mode. Raises `Aborted` for
    a mode that the drive has not.
    """
    known, kind, mode = IdentifyData.unpack(data), count >> 3, count & 7
    if kind == TransferMode.ULTRA_DMA and known.ultra_dma >> mode & 1:
        return Modes(ultra_dma=mode)
    if kind == TransferMode.MULTIWORD_DMA and known.multiword_dma >> mode & 1:
        return Modes(multiword_dma=mode)
    if kind in (TransferMode.PIO_DEFAULT, TransferMode.PIO) and mode <= 4:
        return None
    raise Aborted(why=f"no transfer mode {count:#04x}")


def shown(data: bytes, modes: Modes | None = None, *, trims: bool = True) -> bytes:
    """The data as the guest is shown it: without queuing, since commands go one by one, with the
    transfer mode that was chosen on its side of the wire, and with TRIM only if it `trims`, as a
    guest that sees it uses it unasked.
    """
    known = IdentifyData.unpack(data)
    known.queue_depth_z = 0
    known.sata_capabilities &= ~QUEUED
    known.sata_additional &= ~SataAdditional.of(SEND_RECEIVE=1, NCQ_NON_DATA=1)
    if not trims:
        known.data_set_management &= ~TRIM
    if modes is not None:
        known.ultra_dma = _selected(known.ultra_dma, modes.ultra_dma)
        known.multiword_dma = _selected(known.multiword_dma, modes.multiword_dma)
    return checksummed(known) if data[510] == SIGNATURE else known.pack()


def _selected(word: int, mode: int | None) -> int:
    return word & ~MODES | (0x100 << mode if mode is not None else 0)
