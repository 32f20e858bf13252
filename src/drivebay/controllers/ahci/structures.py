"""What lies in guest memory: commands (AHCI 1.3.1 section 4.2), FISes (SATA 3.0 section 10.3)."""

from __future__ import annotations

import enum
from typing import Annotated, Final

from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Register16, Register32, Struct

__all__ = [
    "ACMD_AT",
    "CFIS_SIZE",
    "DMA_SETUP_AT",
    "HEADER_SIZE",
    "PIO_SETUP_AT",
    "PRDT_AT",
    "REGISTER_AT",
    "SET_DEVICE_BITS_AT",
    "SLOTS",
    "UNKNOWN_AT",
    "CommandHeader",
    "DmaSetupFis",
    "FisFlags",
    "FisType",
    "HeaderFlags",
    "PioSetupFis",
    "PrdEntry",
    "PrdFlags",
    "RegisterD2hFis",
    "RegisterH2dFis",
    "SetDeviceBitsFis",
]

SLOTS: Final = 32
HEADER_SIZE: Final = 32

CFIS_SIZE: Final = 64
"""Room for the command FIS at the start of a command table."""
ACMD_AT: Final = 0x40
PRDT_AT: Final = 0x80

DMA_SETUP_AT, PIO_SETUP_AT, REGISTER_AT = 0x00, 0x20, 0x40
SET_DEVICE_BITS_AT, UNKNOWN_AT = 0x58, 0x60
"""Places in the area of received FISes (section 4.2.1)."""


class FisType(enum.IntEnum):
    """The first byte of a FIS."""

    REGISTER_H2D = 0x27
    REGISTER_D2H = 0x34
    DMA_ACTIVATE = 0x39
    DMA_SETUP = 0x41
    DATA = 0x46
    BIST_ACTIVATE = 0x58
    PIO_SETUP = 0x5F
    SET_DEVICE_BITS = 0xA1


class FisFlags(Register8):
    """The second byte, of whichever FIS."""

    C = Bit(7)  # from the host: a command, not a control register
    I = Bit(6)  # noqa: E741  # interrupt
    D = Bit(5)  # to the host
    PORT = Bits(3, 0)  # of a port multiplier


class HeaderFlags(Register16):
    """The first half of a command header."""

    PMP = Bits(15, 12)  # port of a port multiplier
    C = Bit(10)  # clear BSY once the FIS is sent
    B = Bit(9)  # BIST
    R = Bit(8)  # part of a software reset
    P = Bit(7)  # prefetchable
    W = Bit(6)  # data goes to the drive
    A = Bit(5)  # there is a packet
    CFL = Bits(4, 0)  # dwords of the command FIS


class CommandHeader(Struct, size=32):
    """One of the 32 in the command list."""

    flags: U16  # HeaderFlags
    prdtl: U16  # entries of the PRD table
    prdbc: U32  # bytes that were moved, which we write
    ctba: U32
    ctbau: U32
    reserved: Annotated[bytes, "16s"] = b""


class PrdFlags(Register32):
    """The last dword of a region's entry."""

    I = Bit(31)  # noqa: E741  # interrupt when it is used up
    DBC_z = Bits(21, 0)  # bytes; bit 0 is always set


class PrdEntry(Struct, size=16):
    """A physical region (section 4.2.3.3)."""

    dba: U32
    dbau: U32
    reserved: U32
    flags: U32  # PrdFlags


class RegisterH2dFis(Struct, size=20):
    """A command, or the control register."""

    type: U8
    flags: U8
    command: U8
    features: U8
    lba_low: Annotated[bytes, "3s"]
    device: U8
    lba_high: Annotated[bytes, "3s"]
    features_exp: U8
    count: U16
    icc: U8
    control: U8
    auxiliary: U32


class RegisterD2hFis(Struct, size=20):
    """How a command ended."""

    type: U8
    flags: U8
    status: U8
    error: U8
    lba_low: Annotated[bytes, "3s"]
    device: U8
    lba_high: Annotated[bytes, "3s"]
    reserved_11: U8
    count: U16
    reserved_14: U16 = 0
    reserved_16: U32 = 0


class SetDeviceBitsFis(Struct, size=8):
    """Queued commands have ended: those whose bits are set in `active`."""

    type: U8
    flags: U8
    status: U8  # but for BSY and DRQ
    error: U8
    active: U32


class DmaSetupFis(Struct, size=28):
    """A queued command begins to move data."""

    type: U8
    flags: U8
    reserved_2: U16
    tag: U32  # the DMA buffer identifier,
    buffer_high: U32
    reserved_12: U32
    offset: U32
    count: U32
    reserved_24: U32 = 0


class PioSetupFis(Struct, size=20):
    """A DRQ block comes, or is wanted."""

    type: U8
    flags: U8
    status: U8  # before the block,
    error: U8
    lba_low: Annotated[bytes, "3s"]
    device: U8
    lba_high: Annotated[bytes, "3s"]
    reserved_11: U8
    count: U16
    reserved_14: U8
    e_status: U8  # and after it
    transfer_count: U16
    reserved_18: U16 = 0
