"""The messages of the vfio-user protocol, as on the wire ("Protocol Specification")."""

from __future__ import annotations

import enum
from typing import Final

from drivebay.wire import U16, U32, U64, Bit, Bits, Register32, Struct

MAJOR: Final = 0
MINOR: Final = 0

MAX_FDS: Final = 16
"""Most descriptors that we take with one message."""
MAX_DATA: Final = 1 << 16
"""Most bytes that we move in one region access or DMA message."""
MAX_DMA_MAPS: Final = 256
"""Most regions of a client's memory."""
MAX_SIZE: Final = MAX_DATA + 4096
"""Most bytes of a message: its data, and what stands before."""


class Command(enum.IntEnum):
    """What may be asked: DMA_READ and DMA_WRITE by us, the others by the client."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


class Flags(Register32):
    """The flags of a message."""

    ERROR = Bit(5)
    NO_REPLY = Bit(4)
    TYPE = Bits(3, 0)  # 0 is a command, 1 a reply


class Header(Struct, size=16):
    """What every message begins with; `length` counts it too."""

    id: U16
    command: U16
    length: U32
    flags: U32
    error: U32


class Version(Struct, size=4):
    """The start of VERSION; capabilities follow as JSON with a zero at the end."""

    major: U16
    minor: U16


class DmaFlags(Register32):
    """What the device may do with a region."""

    WRITE = Bit(1)
    READ = Bit(0)


class DmaMap(Struct, size=32):
    """DMA_MAP: a region, in a file whose descriptor comes with it, or to be had by messages."""

    argsz: U32
    flags: U32
    offset: U64
    address: U64
    size_: U64


class DmaUnmap(Struct, size=24):
    """DMA_UNMAP."""

    argsz: U32
    flags: U32
    address: U64
    size_: U64


UNMAP_ALL: Final = 1 << 1
"""A flag of DMA_UNMAP (VFIO_DMA_UNMAP_FLAG_ALL, which QEMU knows)."""


class DeviceFlags(Register32):
    """What a device is."""

    PCI = Bit(1)
    RESET = Bit(0)


class DeviceInfo(Struct, size=16):
    """DEVICE_GET_INFO."""

    argsz: U32
    flags: U32
    num_regions: U32
    num_irqs: U32


class Region(enum.IntEnum):
    """Regions of a PCI function that are not BARs; those have their own numbers, 0 to 5."""

    ROM = 6
    CONFIG = 7
    VGA = 8


NUM_REGIONS: Final = 9


class RegionFlags(Register32):
    """What a client may do with a region."""

    CAPS = Bit(3)
    MMAP = Bit(2)
    WRITE = Bit(1)
    READ = Bit(0)


class RegionInfo(Struct, size=32):
    """DEVICE_GET_REGION_INFO; capabilities may follow."""

    argsz: U32
    flags: U32
    index: U32
    cap_offset: U32
    size_: U64
    offset: U64


SPARSE_MMAP: Final = 1


class SparseMmap(Struct, size=16):
    """The capability that says which parts of a region can be mapped; areas follow."""

    id: U16
    version: U16
    next: U32
    nr_areas: U32
    reserved: U32


class SparseArea(Struct, size=16):
    """One of these parts."""

    offset: U64
    size_: U64


class Irq(enum.IntEnum):
    """Kinds of interrupts of a PCI function."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class IrqFlags(Register32):
    """What a kind of interrupts can do."""

    NORESIZE = Bit(3)
    AUTOMASKED = Bit(2)
    MASKABLE = Bit(1)
    EVENTFD = Bit(0)


class IrqInfo(Struct, size=16):
    """DEVICE_GET_IRQ_INFO."""

    argsz: U32
    flags: U32
    index: U32
    count: U32


class IrqSetFlags(Register32):
    """What to do, and how it is said to which."""

    ACTION_TRIGGER = Bit(5)
    ACTION_UNMASK = Bit(4)
    ACTION_MASK = Bit(3)
    DATA_EVENTFD = Bit(2)
    DATA_BOOL = Bit(1)
    DATA_NONE = Bit(0)


class IrqSet(Struct, size=20):
    """DEVICE_SET_IRQS; bytes may follow."""

    argsz: U32
    flags: U32
    index: U32
    start: U32
    count: U32


class RegionAccess(Struct, size=16):
    """REGION_READ and REGION_WRITE; data may follow."""

    offset: U64
    region: U32
    count: U32


class WriteMulti(Struct, size=8):
    """REGION_WRITE_MULTI; as many writes follow."""

    count: U64


class SmallWrite(Struct, size=24):
    """One of these writes, of up to 8 bytes."""

    offset: U64
    region: U32
    count: U32
    data: U64


class DmaAccess(Struct, size=16):
    """DMA_READ and DMA_WRITE; data may follow."""

    address: U64
    count: U64


class FeatureFlags(Register32):
    """Which feature, and what to do with it."""

    PROBE = Bit(18)
    SET = Bit(17)
    GET = Bit(16)
    INDEX = Bits(15, 0)


class Feature(Struct, size=8):
    """DEVICE_FEATURE; data of the feature follows."""

    argsz: U32
    flags: U32


class FeatureIndex(enum.IntEnum):
    """The features that we have."""

    MIGRATION = 1
    MIG_DEVICE_STATE = 2


class MigrationSupport(Struct, size=8):
    """The data of MIGRATION: `STOP_COPY`."""

    flags: U64


STOP_COPY_SUPPORTED: Final = 1


class MigrationState(enum.IntEnum):
    """Where a device is on its way to another process ("Device Features")."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4


class DeviceState(Struct, size=8):
    """The data of MIG_DEVICE_STATE."""

    state: U32
    data_fd: U32


class MigrationData(Struct, size=8):
    """MIG_DATA_READ and MIG_DATA_WRITE; data may follow."""

    argsz: U32
    size_: U32
