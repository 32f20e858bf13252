"""The registers of an NVMe controller on PCI Express (NVMe Base 2.0 section 3.1.3)."""

from __future__ import annotations

import enum
from typing import Final

from drivebay.wire import At, Bit, Bits, Register32, Register64, RegisterMap

__all__ = [
    "AQA",
    "CAP",
    "CC",
    "CSTS",
    "DOORBELLS_AT",
    "NSSR_MAGIC",
    "VERSION",
    "Arbitration",
    "CommandSet",
    "NvmeRegisters",
    "Shutdown",
    "ShutdownStatus",
]

DOORBELLS_AT: Final = 0x1000
NSSR_MAGIC: Final = 0x4E564D65
"""Written to NSSR it resets the subsystem: "NVMe"."""
VERSION: Final = 0x00020000


class Arbitration(enum.IntEnum):
    """CC.AMS: who is served when."""

    ROUND_ROBIN = 0
    WEIGHTED = 1  # with an urgent class


class CommandSet(enum.IntEnum):
    """CC.CSS: which I/O commands there are."""

    NVM = 0
    ALL = 6
    NONE = 7  # the admin queue only


class Shutdown(enum.IntEnum):
    """CC.SHN: what is asked for."""

    NONE = 0
    NORMAL = 1
    ABRUPT = 2


class ShutdownStatus(enum.IntEnum):
    """CSTS.SHST: how far it is."""

    NONE = 0
    OCCURRING = 1
    COMPLETE = 2


class CAP(Register64):
    """What the controller can do (section 3.1.3.1)."""

    CRMS = Bits(60, 59)
    NSSS = Bit(58)  # subsystem shutdown
    CMBS = Bit(57)  # controller memory buffer
    PMRS = Bit(56)  # persistent memory region
    MPSMAX = Bits(55, 52)  # pages of 2^(12 + n) bytes, at most
    MPSMIN = Bits(51, 48)
    CPS = Bits(47, 46)
    BPS = Bit(45)  # boot partitions
    CSS = Bits(44, 37)
    NSSRS = Bit(36)  # subsystem reset
    DSTRD = Bits(35, 32)  # doorbells every 2^(2 + n) bytes
    TO = Bits(31, 24)  # time to get ready, in units of 500 ms
    AMS = Bits(18, 17)
    CQR = Bit(16)  # queues must be contiguous
    MQES_z = Bits(15, 0)  # entries of a queue


class CC(Register32):
    """What the controller shall do (section 3.1.3.5)."""

    CRIME = Bit(24)
    IOCQES = Bits(23, 20)  # entries of 2^n bytes
    IOSQES = Bits(19, 16)
    SHN = Bits(15, 14, Shutdown)
    AMS = Bits(13, 11, Arbitration)
    MPS = Bits(10, 7)  # pages of 2^(12 + n) bytes
    CSS = Bits(6, 4, CommandSet)
    EN = Bit(0)


class CSTS(Register32):
    """What it does (section 3.1.3.6)."""

    ST = Bit(6)
    PP = Bit(5)  # paused
    NSSRO = Bit(4)  # there was a subsystem reset
    SHST = Bits(3, 2, ShutdownStatus)
    CFS = Bit(1)  # fatal
    RDY = Bit(0)


class AQA(Register32):
    """Sizes of the admin queues (section 3.1.3.8)."""

    ACQS_z = Bits(27, 16)
    ASQS_z = Bits(11, 0)


class NvmeRegisters(RegisterMap):
    """The controller's properties, at the start of BAR0."""

    CAP = At(0x00, CAP)
    VS = At(0x08, Register32)
    INTMS = At(0x0C, Register32)
    INTMC = At(0x10, Register32)
    CC = At(0x14, CC)
    CSTS = At(0x1C, CSTS)
    NSSR = At(0x20, Register32)
    AQA = At(0x24, AQA)
    ASQ = At(0x28, Register64)
    ACQ = At(0x30, Register64)
    CMBLOC = At(0x38, Register32)
    CMBSZ = At(0x3C, Register32)
    BPINFO = At(0x40, Register32)
