"""What virtio 1.2 puts on the wire: feature and status bits, MMIO registers, rings, block requests.

https://docs.oasis-open.org/virtio/virtio/v1.2/virtio-v1.2.html
"""

from __future__ import annotations

import enum
from typing import Final

from drivebay.platform.virtio import DeviceStatus
from drivebay.wire import (
    U8,
    U16,
    U32,
    U64,
    At,
    Bit,
    Register8,
    Register16,
    Register32,
    RegisterMap,
    Struct,
)

# -- features, by bit number ----------------------------------------------------------------------


class RingFeature(enum.IntEnum):
    """Features of rings and transports, section 6."""

    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    RING_PACKED = 34


class BlockFeature(enum.IntEnum):
    """Features of the block device, section 5.2.3."""

    SIZE_MAX = 1
    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14
    LIFETIME = 15
    SECURE_ERASE = 16
    ZONED = 17


# -- the transport --------------------------------------------------------------------------------

DEVICE_ID_BLOCK: Final = 2


class InterruptCause(Register32):
    """Why the interrupt line is up, sections 4.1.4.5 and 4.2.2."""

    CONFIG = Bit(1)  # the configuration has changed
    USED_BUFFER = Bit(0)  # some queue has used buffers


MMIO_MAGIC: Final = int.from_bytes(b"virt", "little")
MMIO_VERSION: Final = 2
MMIO_CONFIG: Final = 0x100


class MmioRegisters(RegisterMap):
    """The control registers of an MMIO device, section 4.2.2."""

    MagicValue = At(0x000, Register32)
    Version = At(0x004, Register32)
    DeviceID = At(0x008, Register32)
    VendorID = At(0x00C, Register32)
    DeviceFeatures = At(0x010, Register32)
    DeviceFeaturesSel = At(0x014, Register32)
    DriverFeatures = At(0x020, Register32)
    DriverFeaturesSel = At(0x024, Register32)
    QueueSel = At(0x030, Register32)
    QueueNumMax = At(0x034, Register32)
    QueueNum = At(0x038, Register32)
    QueueReady = At(0x044, Register32)
    QueueNotify = At(0x050, Register32)
    InterruptStatus = At(0x060, InterruptCause)
    InterruptACK = At(0x064, InterruptCause)
    Status = At(0x070, DeviceStatus)
    QueueDescLow = At(0x080, Register32)
    QueueDescHigh = At(0x084, Register32)
    QueueDriverLow = At(0x090, Register32)
    QueueDriverHigh = At(0x094, Register32)
    QueueDeviceLow = At(0x0A0, Register32)
    QueueDeviceHigh = At(0x0A4, Register32)
    ConfigGeneration = At(0x0FC, Register32)


PCI_ISR: Final = 0x100
PCI_NOTIFY: Final = 0x200
PCI_CONFIG: Final = 0x400
NO_VECTOR: Final = 0xFFFF


class PciRegisters(RegisterMap):
    """The structures of a PCI device, section 4.1.4, one behind the other as ours has them."""

    # The common configuration (section 4.1.4.3); drivers may write 64-bit fields in halves.
    device_feature_select = At(0x00, Register32)
    device_feature = At(0x04, Register32)
    driver_feature_select = At(0x08, Register32)
    driver_feature = At(0x0C, Register32)
    config_msix_vector = At(0x10, Register16)
    num_queues = At(0x12, Register16)
    device_status = At(0x14, Register8)
    config_generation = At(0x15, Register8)
    queue_select = At(0x16, Register16)
    queue_size = At(0x18, Register16)
    queue_msix_vector = At(0x1A, Register16)
    queue_enable = At(0x1C, Register16)
    queue_notify_off = At(0x1E, Register16)
    queue_desc_low = At(0x20, Register32)
    queue_desc_high = At(0x24, Register32)
    queue_driver_low = At(0x28, Register32)
    queue_driver_high = At(0x2C, Register32)
    queue_device_low = At(0x30, Register32)
    queue_device_high = At(0x34, Register32)

    ISR_status = At(PCI_ISR, Register8)  # section 4.1.4.5
    queue_notify = At(PCI_NOTIFY, Register16)  # section 4.1.4.4


PCI_COMMON_SIZE: Final = 0x38


class PciStructure(enum.IntEnum):
    """Which structure a capability names, section 4.1.4."""

    COMMON_CFG = 1
    NOTIFY_CFG = 2
    ISR_CFG = 3
    DEVICE_CFG = 4
    PCI_CFG = 5


class PciCapabilityRegisters(RegisterMap):
    """A capability that names a structure, section 4.1.4."""

    cap_len = At(2, Register8)
    cfg_type = At(3, Register8)
    bar = At(4, Register8)
    id = At(5, Register8)
    offset = At(8, Register32)
    length = At(12, Register32)


class PciNotifyRegisters(PciCapabilityRegisters):
    """The one for notifications, section 4.1.4.4."""

    notify_off_multiplier = At(16, Register32)


class PciAccessRegisters(PciCapabilityRegisters):
    """The one that is a window onto the others, section 4.1.4.9."""

    pci_cfg_data = At(16, Register32)


# -- rings ----------------------------------------------------------------------------------------


class DescriptorFlag(enum.IntFlag):
    """Flags of a descriptor, sections 2.7.5 and 2.8.1."""

    NEXT = 1  # another descriptor follows
    WRITE = 2  # the device writes this buffer
    INDIRECT = 4  # the buffer is a table of descriptors
    AVAIL = 1 << 7  # packed rings only
    USED = 1 << 15  # packed rings only


class VirtqDesc(Struct, size=16):
    """A descriptor of a split ring, section 2.7.5."""

    addr: U64
    len: U32
    flags: U16
    next: U16


class PackedDesc(Struct, size=16):
    """A descriptor of a packed ring, section 2.8.13."""

    addr: U64
    len: U32
    id: U16
    flags: U16


class UsedFlag(enum.IntFlag):
    """virtq_used.flags, section 2.7.8."""

    NO_NOTIFY = 1


class AvailFlag(enum.IntFlag):
    """virtq_avail.flags, section 2.7.6."""

    NO_INTERRUPT = 1


class EventFlag(enum.IntEnum):
    """Event suppression of a packed ring, section 2.8.10."""

    ENABLE = 0
    DISABLE = 1
    DESC = 2


# -- the block device -----------------------------------------------------------------------------

SECTOR_SIZE: Final = 512
"""The unit of `BlockRequest.sector`, whatever the size of a block (section 5.2.4)."""

ID_BYTES: Final = 20


class BlockType(enum.IntEnum):
    """Request types, section 5.2.6."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    GET_LIFETIME = 10
    DISCARD = 11
    WRITE_ZEROES = 13
    SECURE_ERASE = 14


class BlockStatus(enum.IntEnum):
    """Request outcomes, section 5.2.6."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


class BlockRequest(Struct, size=16):
    """The header of a request."""

    type: U32
    reserved: U32
    sector: U64


class Segment(Struct, size=16):
    """A range of DISCARD or WRITE_ZEROES, in units of 512 bytes."""

    sector: U64
    num_sectors: U32
    flags: U32


SEGMENT_UNMAP: Final = 1


class BlockConfig(Struct, size=60):
    """The configuration space, section 5.2.4. Sizes are in units of 512 bytes unless said."""

    capacity: U64
    size_max: U32 = 0
    seg_max: U32 = 0
    cylinders: U16 = 0
    heads: U8 = 0
    sectors: U8 = 0
    blk_size: U32 = 0  # bytes
    physical_block_exp: U8 = 0  # log2 of blocks in a physical block
    alignment_offset: U8 = 0
    min_io_size: U16 = 0  # blocks
    opt_io_size: U32 = 0  # blocks
    writeback: U8 = 0
    unused0: U8 = 0
    num_queues: U16 = 0
    max_discard_sectors: U32 = 0
    max_discard_seg: U32 = 0
    discard_sector_alignment: U32 = 0
    max_write_zeroes_sectors: U32 = 0
    max_write_zeroes_seg: U32 = 0
    write_zeroes_may_unmap: U8 = 0
    unused1: U8 = 0
    unused2: U16 = 0


CONFIG_WRITEBACK: Final = 32
"""Offset of `BlockConfig.writeback`, the only field a driver may write."""
