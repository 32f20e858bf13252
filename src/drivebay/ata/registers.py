"""The registers of an ATA device and the commands it is given (ACS-3, ATA/ATAPI-6).

`count` and the LBA registers mean other things to some commands; those that have a name of their
own are here too.
"""

from __future__ import annotations

import enum

from drivebay.wire import Bit, Bits, Register8

__all__ = [
    "DeviceControl",
    "DeviceRegister",
    "Error",
    "Feature",
    "InterruptReason",
    "Opcode",
    "PacketFeatures",
    "SetMaxFeature",
    "SmartFeature",
    "Status",
    "TransferMode",
    "name_of",
]


class Status(Register8):
    """The Status register (ATA/ATAPI-6 section 7.15)."""

    BSY = Bit(7)  # busy: no other bit means anything
    DRDY = Bit(6)  # ready for commands; 0 after reset on a packet device
    DF = Bit(5)  # device fault
    DSC = Bit(4)  # seek complete; for packets, service
    DRQ = Bit(3)  # data is wanted or there
    CORR = Bit(2)  # obsolete
    IDX = Bit(1)  # obsolete
    ERR = Bit(0)  # the Error register says why; for packets, CHK


class Error(Register8):
    """The Error register (section 7.9)."""

    ICRC = Bit(7)  # the cable
    UNC = Bit(6)  # uncorrectable data
    MC = Bit(5)  # media changed
    IDNF = Bit(4)  # no such address
    MCR = Bit(3)  # media change request
    ABRT = Bit(2)  # command aborted
    NM = Bit(1)  # no media; for packets, end of media
    ILI = Bit(0)  # illegal length; after diagnostics, passed


class DeviceRegister(Register8):
    """The Device register (section 7.7), Device/Head in its day."""

    LBA = Bit(6)
    DEV = Bit(4)
    HEAD = Bits(3, 0)  # or LBA bits 27 to 24


class DeviceControl(Register8):
    """The Device Control register (section 7.8)."""

    HOB = Bit(7)  # read the previous content of the two-deep registers
    SRST = Bit(2)  # software reset
    nIEN = Bit(1)  # noqa: N815 - the standard's own; keeps INTRQ down


class InterruptReason(Register8):
    """The count register of a packet command (ATA/ATAPI-6 section 8.23)."""

    TAG = Bits(7, 3)
    REL = Bit(2)  # bus release
    IO = Bit(1)  # to the host
    CD = Bit(0)  # a command, not data; with IO: status


class PacketFeatures(Register8):
    """The features register of PACKET."""

    DMADIR = Bit(2)
    OVL = Bit(1)
    DMA = Bit(0)


class Opcode(enum.IntEnum):
    """ATA commands (ACS-3 table 209 and the ones older editions had)."""

    NOP = 0x00
    DATA_SET_MANAGEMENT = 0x06
    DEVICE_RESET = 0x08
    RECALIBRATE = 0x10  # to 0x1F, retired
    READ_SECTORS = 0x20
    READ_SECTORS_ONCE = 0x21  # without retries, retired
    READ_SECTORS_EXT = 0x24
    READ_DMA_EXT = 0x25
    READ_NATIVE_MAX_ADDRESS_EXT = 0x27
    READ_MULTIPLE_EXT = 0x29
    READ_LOG_EXT = 0x2F
    WRITE_SECTORS = 0x30
    WRITE_SECTORS_ONCE = 0x31
    WRITE_SECTORS_EXT = 0x34
    WRITE_DMA_EXT = 0x35
    SET_MAX_ADDRESS_EXT = 0x37
    WRITE_MULTIPLE_EXT = 0x39
    WRITE_DMA_FUA_EXT = 0x3D
    WRITE_LOG_EXT = 0x3F
    READ_VERIFY_SECTORS = 0x40
    READ_VERIFY_SECTORS_ONCE = 0x41
    READ_VERIFY_SECTORS_EXT = 0x42
    WRITE_UNCORRECTABLE_EXT = 0x45
    READ_LOG_DMA_EXT = 0x47
    WRITE_LOG_DMA_EXT = 0x57
    READ_FPDMA_QUEUED = 0x60
    WRITE_FPDMA_QUEUED = 0x61
    NCQ_NON_DATA = 0x63
    SEND_FPDMA_QUEUED = 0x64
    RECEIVE_FPDMA_QUEUED = 0x65
    SEEK = 0x70  # to 0x7F, retired
    EXECUTE_DEVICE_DIAGNOSTIC = 0x90
    INITIALIZE_DEVICE_PARAMETERS = 0x91
    STANDBY_IMMEDIATE_OLD = 0x94
    IDLE_IMMEDIATE_OLD = 0x95
    STANDBY_OLD = 0x96
    IDLE_OLD = 0x97
    CHECK_POWER_MODE_OLD = 0x98
    SLEEP_OLD = 0x99
    PACKET = 0xA0
    IDENTIFY_PACKET_DEVICE = 0xA1
    SMART = 0xB0
    DEVICE_CONFIGURATION = 0xB1
    READ_MULTIPLE = 0xC4
    WRITE_MULTIPLE = 0xC5
    SET_MULTIPLE_MODE = 0xC6
    READ_DMA = 0xC8
    READ_DMA_ONCE = 0xC9
    WRITE_DMA = 0xCA
    WRITE_DMA_ONCE = 0xCB
    WRITE_MULTIPLE_FUA_EXT = 0xCE
    STANDBY_IMMEDIATE = 0xE0
    IDLE_IMMEDIATE = 0xE1
    STANDBY = 0xE2
    IDLE = 0xE3
    READ_BUFFER = 0xE4
    CHECK_POWER_MODE = 0xE5
    SLEEP = 0xE6
    FLUSH_CACHE = 0xE7
    WRITE_BUFFER = 0xE8
    FLUSH_CACHE_EXT = 0xEA
    IDENTIFY_DEVICE = 0xEC
    SET_FEATURES = 0xEF
    SECURITY_SET_PASSWORD = 0xF1
    SECURITY_UNLOCK = 0xF2
    SECURITY_ERASE_PREPARE = 0xF3
    SECURITY_ERASE_UNIT = 0xF4
    SECURITY_FREEZE_LOCK = 0xF5
    SECURITY_DISABLE_PASSWORD = 0xF6
    READ_NATIVE_MAX_ADDRESS = 0xF8
    SET_MAX_ADDRESS = 0xF9


class Feature(enum.IntEnum):
    """Subcommands of SET FEATURES (ACS-3 table 123)."""

    ENABLE_WRITE_CACHE = 0x02
    SET_TRANSFER_MODE = 0x03
    ENABLE_APM = 0x05
    DISABLE_LOOK_AHEAD = 0x55
    KEEP_DEFAULTS = 0x66  # across a software reset
    DISABLE_WRITE_CACHE = 0x82
    DISABLE_APM = 0x85
    ENABLE_LOOK_AHEAD = 0xAA
    REVERT_TO_DEFAULTS = 0xCC


class TransferMode(enum.IntEnum):
    """What the count register of SET TRANSFER MODE holds in bits 7 to 3 (ACS-3 table 124)."""

    PIO_DEFAULT = 0
    PIO = 1
    SINGLE_WORD_DMA = 2
    MULTIWORD_DMA = 4
    ULTRA_DMA = 8


class SmartFeature(enum.IntEnum):
    """Subcommands of SMART (ACS-2 table 84, the attribute ones from ATA-3)."""

    READ_DATA = 0xD0
    READ_THRESHOLDS = 0xD1
    ATTRIBUTE_AUTOSAVE = 0xD2
    SAVE_ATTRIBUTES = 0xD3
    EXECUTE_OFFLINE_IMMEDIATE = 0xD4
    READ_LOG = 0xD5
    WRITE_LOG = 0xD6
    ENABLE_OPERATIONS = 0xD8
    DISABLE_OPERATIONS = 0xD9
    RETURN_STATUS = 0xDA


class SetMaxFeature(enum.IntEnum):
    """Subcommands of SET MAX (ATA/ATAPI-6 section 8.47)."""

    ADDRESS = 0x00


def name_of(opcode: int) -> str:
    """A command as the standard writes it: ``READ DMA EXT``; unknown ones as ``command 0xff``."""
    if opcode & 0xF0 in (Opcode.RECALIBRATE, Opcode.SEEK):
        opcode &= 0xF0
    if opcode in Opcode._value2member_map_:
        return Opcode(opcode).name.replace("_", " ")
    return f"command {opcode:#04x}"
