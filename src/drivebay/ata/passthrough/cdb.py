"""ATA PASS-THROUGH (12) and (16): a task file in a CDB (SAT-4 sections 12.2.2 and 12.2.3)."""

from __future__ import annotations

import enum
from typing import Final

from drivebay.ata.command import Protocol
from drivebay.ata.passthrough.table import BLOCK, Length, Row
from drivebay.ata.taskfile import TaskFile
from drivebay.wire import U8, Bit, Bits, Register8, Struct

__all__ = [
    "AtaPassThrough12",
    "AtaPassThrough16",
    "PassThroughProtocol",
    "ProtocolByte",
    "TransferByte",
    "encode",
]

PASS_THROUGH_12: Final = 0xA1
PASS_THROUGH_16: Final = 0x85
COUNT, STPSIU = 2, 3  # what T_LENGTH says the length is in


class PassThroughProtocol(enum.IntEnum):
    """The PROTOCOL field (SAT-4 table 138)."""

    NON_DATA = 3
    PIO_IN = 4
    PIO_OUT = 5
    DMA = 6


class ProtocolByte(Register8):
    """Byte 1."""

    MULTIPLE_COUNT = Bits(7, 5)  # sectors in a DRQ block: 2 to this power
    PROTOCOL = Bits(4, 1, PassThroughProtocol)
    EXTEND = Bit(0)


class TransferByte(Register8):
    """Byte 2."""

    OFF_LINE = Bits(7, 6)
    CK_COND = Bit(5)  # answer with the registers, also of a success
    T_TYPE = Bit(4)  # the unit: logical sectors, or else 512 bytes
    T_DIR = Bit(3)  # from the device
    BYT_BLOK = Bit(2)  # the length is in units, or else in bytes
    T_LENGTH = Bits(1, 0)


class AtaPassThrough16(Struct, size=16):
    """The CDB that takes 48-bit registers."""

    operation_code: U8 = PASS_THROUGH_16
    protocol: U8 = 0
    transfer: U8 = 0
    features_high: U8 = 0
    features: U8 = 0
    count_high: U8 = 0
    count: U8 = 0
    lba_low_high: U8 = 0
    lba_low: U8 = 0
    lba_mid_high: U8 = 0
    lba_mid: U8 = 0
    lba_high_high: U8 = 0
    lba_high: U8 = 0
    device: U8 = 0
    command: U8 = 0
    control: U8 = 0


class AtaPassThrough12(Struct, size=12):
    """The CDB that some bridges know only."""

    operation_code: U8 = PASS_THROUGH_12
    protocol: U8 = 0
    transfer: U8 = 0
    features: U8 = 0
    count: U8 = 0
    lba_low: U8 = 0
    lba_mid: U8 = 0
    lba_high: U8 = 0
    device: U8 = 0
    command: U8 = 0
    reserved: U8 = 0
    control: U8 = 0


PROTOCOLS: Final = {
    Protocol.NON_DATA: PassThroughProtocol.NON_DATA,
    Protocol.PIO_IN: PassThroughProtocol.PIO_IN,
    Protocol.PIO_OUT: PassThroughProtocol.PIO_OUT,
    Protocol.DMA_IN: PassThroughProtocol.DMA,
    Protocol.DMA_OUT: PassThroughProtocol.DMA,
}
DEV: Final = 0x10  # of the Device register: a wire of the guest's, not the drive's


def encode(
    row: Row, taskfile: TaskFile, *, sector: int = BLOCK, multiple: int = 1, short: bool = False
) -> bytes:
    """The CDB for `taskfile`, whose command is `row`, on a drive with sectors of `sector` bytes, of
    which `multiple` make a DRQ block.

    Of a command without 48-bit registers only their current bytes are sent, for the previous ones
    are what some command before has left there. `short` chooses 12 bytes where they do.
    """
    _, features, count, low, mid, high, _, _ = taskfile.registers
    if row.length is Length.ONE:
        count = 1  # not the command's, but where a bridge looks for the length
    first = ProtocolByte.of(
        MULTIPLE_COUNT=multiple.bit_length() - 1 if row.multiple else 0,
        PROTOCOL=PROTOCOLS[row.protocol],
        EXTEND=row.ext,
    )
    second = _transfer(row, taskfile, sector)
    device = taskfile.device & ~DEV
    if short and not row.ext:
        return AtaPassThrough12(
            protocol=first,
            transfer=second,
            features=features & 0xFF,
            count=count & 0xFF,
            lba_low=low & 0xFF,
            lba_mid=mid & 0xFF,
            lba_high=high & 0xFF,
            device=device,
            command=taskfile.command,
        ).pack()
    upper = 0xFF if row.ext else 0
    return AtaPassThrough16(
        protocol=first,
        transfer=second,
        features_high=features >> 8 & upper,
        features=features & 0xFF,
        count_high=count >> 8 & upper,
        count=count & 0xFF,
        lba_low_high=low >> 8 & upper,
        lba_low=low & 0xFF,
        lba_mid_high=mid >> 8 & upper,
        lba_mid=mid & 0xFF,
        lba_high_high=high >> 8 & upper,
        lba_high=high & 0xFF,
        device=device,
        command=taskfile.command,
    ).pack()


def _transfer(row: Row, taskfile: TaskFile, sector: int) -> int:
    if row.length is Length.NONE:
        return TransferByte.of(CK_COND=1)
    inward = row.protocol in (Protocol.PIO_IN, Protocol.DMA_IN)
    if row.length is Length.LBA_LOW and taskfile.lba_low & 0xFF:
        return TransferByte.of(CK_COND=1, T_DIR=inward, T_LENGTH=STPSIU)
    sectors = row.length is Length.SECTORS and sector != BLOCK  # bridges know blocks better
    return TransferByte.of(CK_COND=1, T_TYPE=sectors, T_DIR=inward, BYT_BLOK=1, T_LENGTH=COUNT)
