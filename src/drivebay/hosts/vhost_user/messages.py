"""The messages of the vhost-user protocol, as on the wire ("Message Specification")."""

from __future__ import annotations

import enum
from typing import Final

from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register32, Struct

PROTOCOL_FEATURES: Final = 30
"""VHOST_USER_F_PROTOCOL_FEATURES: a bit among the virtio features that is not one."""

RING_PACKED: Final = 34
"""VIRTIO_F_RING_PACKED: which of its two layouts an in-flight area has."""

MAX_REGIONS: Final = 8
"""Most memory regions in one SET_MEM_TABLE."""

NO_FD: Final = 1 << 8
"""In the u64 of SET_VRING_KICK, CALL and ERR: no descriptor comes with it. Below is the index."""

MAX_CONFIG: Final = 256


class Request(enum.IntEnum):
    """What a front end may ask."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SET_BACKEND_REQ_FD = 21
    GET_CONFIG = 24
    SET_CONFIG = 25
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


class BackendRequest(enum.IntEnum):
    """What a back end may ask, on the channel of SET_BACKEND_REQ_FD."""

    CONFIG_CHANGE_MSG = 2


class ProtocolFeature(enum.IntEnum):
    """Features of the protocol itself, by bit number."""

    MQ = 0
    LOG_SHMFD = 1
    REPLY_ACK = 3
    BACKEND_REQ = 5
    CONFIG = 9
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16


class Flags(Register32):
    """The flags of a message."""

    NEED_REPLY = Bit(3)
    REPLY = Bit(2)
    VERSION = Bits(1, 0)  # 1


class Header(Struct, size=12):
    """What every message begins with; `length` bytes of payload follow."""

    request: U32
    flags: U32
    length: U32


class Number(Struct, size=8):
    """A payload that is one number."""

    value: U64


class VringState(Struct, size=8):
    """A number that belongs to a ring."""

    index: U32
    value: U32


class VringAddress(Struct, size=40):
    """Where a ring is, in addresses of the front end's own."""

    index: U32
    flags: U32
    descriptors: U64
    used: U64
    available: U64
    log: U64


class MemoryTable(Struct, size=8):
    """The start of SET_MEM_TABLE, before its regions."""

    count: U32
    padding: U32


class MemoryRegion(Struct, size=32):
    """A region of guest memory: a range of the file whose descriptor comes with it."""

    guest_address: U64
    length: U64
    user_address: U64
    mmap_offset: U64


class SingleRegion(Struct, size=40):
    """The region of ADD_MEM_REG and REM_MEM_REG."""

    padding: U64
    guest_address: U64
    length: U64
    user_address: U64
    mmap_offset: U64


class ConfigHeader(Struct, size=12):
    """The start of GET_CONFIG and SET_CONFIG, before the bytes."""

    offset: U32
    length: U32
    flags: U32


class Inflight(Struct, size=20):
    """The shared area that says which requests are in flight."""

    mmap_size: U64
    mmap_offset: U64
    num_queues: U16
    queue_size: U16


class SplitRegion(Struct, size=16):
    """The start of a split ring's part of that area ("QueueRegionSplit")."""

    features: U64
    version: U16
    desc_num: U16
    last_batch_head: U16
    used_idx: U16


class SplitState(Struct, size=16):
    """One descriptor of it ("DescStateSplit")."""

    inflight: U8
    padding0: U8
    padding1: U32
    next: U16
    counter: U64


class PackedRegion(Struct, size=32):
    """The start of a packed ring's part ("QueueRegionPacked")."""

    features: U64
    version: U16
    desc_num: U16
    free_head: U16
    old_free_head: U16
    used_idx: U16
    old_used_idx: U16
    used_wrap_counter: U8
    old_used_wrap_counter: U8
    padding0: U16
    padding1: U64


class PackedState(Struct, size=32):
    """One descriptor of it, and a copy of what the driver wrote there ("DescStatePacked")."""

    inflight: U8
    padding: U8
    next: U16
    last: U16
    num: U16
    counter: U64
    id: U16
    flags: U16
    len: U32
    addr: U64
