"""The registers of the 82077AA (data sheet 290166-007, section 2.1), and its status bytes (section
6.0).
"""

from __future__ import annotations

import enum

from drivebay.wire import At, Bit, Bits, Register8, RegisterMap

__all__ = [
    "Configuration",
    "ConfigurationControl",
    "DataRate",
    "DataRateSelect",
    "DigitalInput",
    "DigitalOutput",
    "FloppyBlock",
    "InterruptCode",
    "MainStatus",
    "Opcode",
    "Perpendicular",
    "Status0",
    "Status1",
    "Status2",
    "Status3",
    "TapeDrive",
]


class DataRate(enum.IntEnum):
    """Kilobits a second (table 2-4)."""

    KBPS_500 = 0
    KBPS_300 = 1
    KBPS_250 = 2
    KBPS_1000 = 3


class DigitalOutput(Register8):
    """DOR."""

    Motors = Bits(7, 4)  # one bit a drive
    DmaGate = Bit(3)  # the interrupt and DMA requests reach the bus
    NotReset = Bit(2)
    DriveSelect = Bits(1, 0)

    def motor_on(self, unit: int) -> bool:
        """Whether that of drive `unit` is."""
        return bool(self.Motors >> unit & 1)


class TapeDrive(Register8):
    """TDR: the drive that is a tape, which has no effect here."""

    TapeSelect = Bits(1, 0)


class MainStatus(Register8):
    """MSR."""

    RQM = Bit(7)  # the FIFO may be read or written
    DIO = Bit(6)  # read
    NonDma = Bit(5)  # data go through the FIFO
    Busy = Bit(4)  # a command is under way
    DriveBusy = Bits(3, 0)  # drives that seek


class DataRateSelect(Register8):
    """DSR."""

    SoftwareReset = Bit(7)  # clears itself
    PowerDown = Bit(6)
    Precompensation = Bits(4, 2)
    Rate = Bits(1, 0, DataRate)


class ConfigurationControl(Register8):
    """CCR."""

    Rate = Bits(1, 0, DataRate)


class DigitalInput(Register8):
    """DIR. Bits 6-0 are not driven: they belong to the hard disk."""

    DiskChange = Bit(7)


class FloppyBlock(RegisterMap):
    """Ports from 0x3F0. 0x3F6 is not ours."""

    StatusA = At(0, Register8, "r")  # of a PS/2; not driven in a PC-AT
    StatusB = At(1, Register8, "r")
    DigitalOutput = At(2, DigitalOutput)
    TapeDrive = At(3, TapeDrive)
    MainStatus = At(4, MainStatus, "r")
    DataRateSelect = At(4, DataRateSelect, "w")
    Fifo = At(5, Register8)
    DigitalInput = At(7, DigitalInput, "r")
    ConfigurationControl = At(7, ConfigurationControl, "w")


class Opcode(enum.IntEnum):
    """The commands (table 5-1), without the bits that say how: MT, MFM, SK, direction, lock."""

    READ_TRACK = 0x02
    SPECIFY = 0x03
    SENSE_DRIVE_STATUS = 0x04
    WRITE_DATA = 0x05
    READ_DATA = 0x06
    RECALIBRATE = 0x07
    SENSE_INTERRUPT_STATUS = 0x08
    WRITE_DELETED_DATA = 0x09
    READ_ID = 0x0A
    READ_DELETED_DATA = 0x0C
    FORMAT_TRACK = 0x0D
    DUMPREG = 0x0E
    SEEK = 0x0F
    VERSION = 0x10
    SCAN_EQUAL = 0x11
    PERPENDICULAR_MODE = 0x12
    CONFIGURE = 0x13
    LOCK = 0x14
    VERIFY = 0x16
    PART_ID = 0x18
    SCAN_LOW_OR_EQUAL = 0x19
    SCAN_HIGH_OR_EQUAL = 0x1D
    RELATIVE_SEEK = 0x8F


class Configuration(Register8):
    """The second parameter of CONFIGURE."""

    EIS = Bit(6)  # implied seeks
    EFIFO = Bit(5)  # the FIFO is off
    POLL = Bit(4)  # drives are not polled: a reset does not interrupt
    FIFOTHR = Bits(3, 0)


class Perpendicular(Register8):
    """The parameter of PERPENDICULAR MODE."""

    OW = Bit(7)  # the drives' bits are overwritten
    Drives = Bits(5, 2)
    GAP = Bit(1)
    WGATE = Bit(0)


class InterruptCode(enum.IntEnum):
    """How a command ended."""

    NORMAL = 0
    ABNORMAL = 1
    INVALID = 2
    POLLING = 3


class Status0(Register8):
    """ST0."""

    IC = Bits(7, 6, InterruptCode)
    SE = Bit(5)  # seek end
    EC = Bit(4)  # equipment check: track 0 was not found
    H = Bit(2)
    DS = Bits(1, 0)


class Status1(Register8):
    """ST1."""

    EN = Bit(7)  # the end of the cylinder came before TC
    DE = Bit(5)  # a CRC was wrong
    OR = Bit(4)  # nobody took or brought the data in time
    ND = Bit(2)  # the sector was not found
    NW = Bit(1)  # write protected
    MA = Bit(0)  # no address mark


class Status2(Register8):
    """ST2."""

    CM = Bit(6)  # a data mark of the other kind
    DD = Bit(5)  # the wrong CRC was that of data
    WC = Bit(4)  # another cylinder
    SH = Bit(3)  # scan: equal
    SN = Bit(2)  # scan: not satisfied
    BC = Bit(1)  # a bad cylinder
    MD = Bit(0)  # no data mark


class Status3(Register8):
    """ST3. Bits 5 and 3 are ones."""

    WP = Bit(6)
    One = Bit(5)
    T0 = Bit(4)
    AlsoOne = Bit(3)
    HD = Bit(2)
    DS = Bits(1, 0)
