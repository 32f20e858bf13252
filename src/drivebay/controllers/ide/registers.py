"""The registers of an IDE controller: two channels' blocks, the bus master, the PCI function.

ATA/ATAPI-6 section 7, "Programming Interface for Bus Master IDE Controller" 1.0 (SFF-8038i), and
the 82371AB (PIIX4) data sheet.
"""

from __future__ import annotations

from drivebay.ata.registers import DeviceControl, DeviceRegister, Error, Status
from drivebay.wire import (
    U8,
    U16,
    U32,
    At,
    Bit,
    Bits,
    Register8,
    Register16,
    Register32,
    RegisterMap,
    Struct,
)

__all__ = [
    "BusMasterBlock",
    "BusMasterCommand",
    "BusMasterStatus",
    "CommandBlock",
    "ControlBlock",
    "IdeTiming",
    "Int13Packet",
    "PhysicalRegion",
    "PiixConfig",
    "RegionFlags",
]


class CommandBlock(RegisterMap):
    """Eight ports: 0x1F0 or 0x170, or BAR0 or BAR2."""

    Data = At(0, Register8)  # one port, though 16 or 32 bits wide
    Error = At(1, Error, "r")
    Features = At(1, Register8, "w")
    Count = At(2, Register8)
    LBALow = At(3, Register8)
    LBAMid = At(4, Register8)
    LBAHigh = At(5, Register8)
    Device = At(6, DeviceRegister)
    Status = At(7, Status, "r")
    Command = At(7, Register8, "w")


class ControlBlock(RegisterMap):
    """One port: 0x3F6 or 0x376, or the third of BAR1 or BAR3."""

    AlternateStatus = At(0, Status, "r")
    DeviceControl = At(0, DeviceControl, "w")


class BusMasterCommand(Register8):
    """BMIC."""

    ToMemory = Bit(3)  # locked while the bus master runs
    Start = Bit(0)


class BusMasterStatus(Register8):
    """BMIS."""

    SimplexOnly = Bit(7)
    Drive1Capable = Bit(6)  # for software to tell software
    Drive0Capable = Bit(5)
    Interrupt = Bit(2)  # INTRQ has risen; cleared by a one
    Error = Bit(1)  # memory did not answer; cleared by a one
    Active = Bit(0)


class BusMasterBlock(RegisterMap):
    """Eight ports of BAR4 for each channel."""

    Command = At(0, BusMasterCommand)
    Status = At(2, BusMasterStatus)
    RegionTable = At(4, Register32)  # BMIDTP


class PhysicalRegion(Struct, size=8):
    """A descriptor of the region table (PRD)."""

    base: U32
    byte_count: U16  # 0 for 65536
    reserved: U8
    flags: U8


class RegionFlags(Register8):
    """The last byte of a region descriptor."""

    EndOfTable = Bit(7)


class IdeTiming(Register16):
    """IDETIM of the 82371AB."""

    DecodeEnable = Bit(15)  # the channel's ports answer
    Timing = Bits(14, 0)  # clocks, which nothing here has


class PiixConfig(RegisterMap):
    """What the function has beyond the header."""

    IDETIM0 = At(0x40, IdeTiming)
    IDETIM1 = At(0x42, IdeTiming)
    SIDETIM = At(0x44, Register8)
    UDMACTL = At(0x48, Register8)
    UDMATIM = At(0x4A, Register16)
    ManufacturerID = At(0xF8, Register32)


class Int13Packet(Struct, size=24):
    """An enlightened INT 13h request, in guest memory (Hyper-V's IDE, port 0x1E0 or 0x160)."""

    command: U8  # an ATA command
    device: U8  # the Device register
    flags: U8
    result_status: U8  # ours, if it fails: the Status register
    lba_low: U32
    lba_high: U16
    block_count: U16
    byte_count: U32  # CD only, as the last two
    data_buffer: U32  # disk: the region table; CD: the data
    skip_bytes_head: U16
    skip_bytes_tail: U16
