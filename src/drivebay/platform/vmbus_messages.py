"""VMBus channel messages, as they go through the hypervisor's message ports."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final

from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = [
    "MESSAGE_SIZE",
    "VERSIONS",
    "CloseChannel",
    "GpaRange",
    "GpadlBody",
    "GpadlCreated",
    "GpadlHeader",
    "GpadlTeardown",
    "GpadlTorndown",
    "Header",
    "InitiateContact",
    "MessageType",
    "ModifyChannel",
    "ModifyChannelResponse",
    "OfferChannel",
    "OpenChannel",
    "OpenResult",
    "RelidReleased",
    "RescindOffer",
    "VersionResponse",
]

MESSAGE_SIZE: Final = 240
"""Most bytes of a message."""

WIN8, WIN8_1, WIN10 = 0x20004, 0x30000, 0x40000
V4_1, V5_0, V5_1, V5_2, IRON = 0x40001, 0x50000, 0x50001, 0x50002, 0x50003
VERSIONS: Final = (WIN8, WIN8_1, WIN10, V4_1, V5_0, V5_1, V5_2, IRON)
"""Major in the upper half, minor in the lower. Those before have no interrupt of a channel's own.
"""


class MessageType(enum.IntEnum):
    """The first word of a message."""

    OFFER_CHANNEL = 1
    RESCIND_CHANNEL_OFFER = 2
    REQUEST_OFFERS = 3
    ALL_OFFERS_DELIVERED = 4
    OPEN_CHANNEL = 5
    OPEN_CHANNEL_RESULT = 6
    CLOSE_CHANNEL = 7
    GPADL_HEADER = 8
    GPADL_BODY = 9
    GPADL_CREATED = 10
    GPADL_TEARDOWN = 11
    GPADL_TORNDOWN = 12
    RELID_RELEASED = 13
    INITIATE_CONTACT = 14
    VERSION_RESPONSE = 15
    UNLOAD = 16
    UNLOAD_COMPLETE = 17
    MODIFY_CHANNEL = 22
    MODIFY_CHANNEL_RESPONSE = 24


class Header(Struct, size=8):
    """Before each message."""

    type: U32
    padding: U32 = 0


class OfferChannel(Struct, size=196):
    """OFFER_CHANNEL, to the guest."""

    type: U32 = MessageType.OFFER_CHANNEL
    padding: U32 = 0
    interface_id: Annotated[bytes, "16s"] = b""
    instance_id: Annotated[bytes, "16s"] = b""
    reserved: Annotated[bytes, "16s"] = b""
    flags: U16 = 0
    mmio_megabytes: U16 = 0
    user_data: Annotated[bytes, "120s"] = b""
    sub_channel_index: U16 = 0
    mmio_megabytes_optional: U16 = 0
    channel_id: U32 = 0
    monitor_id: U8 = 0
    monitor_allocated: U8 = 0
    is_dedicated: U16 = 1
    connection_id: U32 = 0


class RescindOffer(Struct, size=12):
    """RESCIND_CHANNEL_OFFER, to the guest."""

    type: U32 = MessageType.RESCIND_CHANNEL_OFFER
    padding: U32 = 0
    channel_id: U32 = 0


class OpenChannel(Struct, size=148):
    """OPEN_CHANNEL."""

    type: U32 = MessageType.OPEN_CHANNEL
    padding: U32 = 0
    channel_id: U32 = 0
    open_id: U32 = 0
    ring_gpadl_id: U32 = 0
    target_vp: U32 = 0
    downstream_page_offset: U32 = 0
    user_data: Annotated[bytes, "120s"] = b""


class OpenResult(Struct, size=20):
    """OPEN_CHANNEL_RESULT, to the guest."""

    type: U32 = MessageType.OPEN_CHANNEL_RESULT
    padding: U32 = 0
    channel_id: U32 = 0
    open_id: U32 = 0
    status: U32 = 0


class CloseChannel(Struct, size=12):
    """CLOSE_CHANNEL."""

    type: U32 = MessageType.CLOSE_CHANNEL
    padding: U32 = 0
    channel_id: U32 = 0


class GpadlHeader(Struct, size=20):
    """GPADL_HEADER: the beginning of a list of ranges, `length` bytes in all; see `GpaRange`."""

    type: U32 = MessageType.GPADL_HEADER
    padding: U32 = 0
    channel_id: U32 = 0
    gpadl_id: U32 = 0
    length: U16 = 0
    range_count: U16 = 0


class GpaRange(Struct, size=8):
    """A range of guest memory; the numbers of its pages follow, 8 bytes each."""

    byte_count: U32
    byte_offset: U32


class GpadlBody(Struct, size=16):
    """GPADL_BODY: more of the list."""

    type: U32 = MessageType.GPADL_BODY
    padding: U32 = 0
    number: U32 = 0
    gpadl_id: U32 = 0


class GpadlCreated(Struct, size=20):
    """GPADL_CREATED, to the guest."""

    type: U32 = MessageType.GPADL_CREATED
    padding: U32 = 0
    channel_id: U32 = 0
    gpadl_id: U32 = 0
    status: U32 = 0


class GpadlTeardown(Struct, size=16):
    """GPADL_TEARDOWN."""

    type: U32 = MessageType.GPADL_TEARDOWN
    padding: U32 = 0
    channel_id: U32 = 0
    gpadl_id: U32 = 0


class GpadlTorndown(Struct, size=12):
    """GPADL_TORNDOWN, to the guest."""

    type: U32 = MessageType.GPADL_TORNDOWN
    padding: U32 = 0
    gpadl_id: U32 = 0


class RelidReleased(Struct, size=12):
    """RELID_RELEASED: the guest has forgotten a channel that was rescinded."""

    type: U32 = MessageType.RELID_RELEASED
    padding: U32 = 0
    channel_id: U32 = 0


class InitiateContact(Struct, size=40):
    """INITIATE_CONTACT: the guest proposes a version."""

    type: U32 = MessageType.INITIATE_CONTACT
    padding: U32 = 0
    version: U32 = 0
    target_vp: U32 = 0
    interrupt_page: U64 = 0
    parent_to_child_monitor_page: U64 = 0
    child_to_parent_monitor_page: U64 = 0


class VersionResponse(Struct, size=16):
    """VERSION_RESPONSE, to the guest."""

    type: U32 = MessageType.VERSION_RESPONSE
    padding: U32 = 0
    supported: U8 = 0
    connection_state: U8 = 0
    reserved: U16 = 0
    message_connection_id: U32 = 0

    CONNECTION_ID: ClassVar[int] = 1
    """Where the guest sends its messages from now on."""


class ModifyChannel(Struct, size=16):
    """MODIFY_CHANNEL: another processor is to be interrupted."""

    type: U32 = MessageType.MODIFY_CHANNEL
    padding: U32 = 0
    channel_id: U32 = 0
    target_vp: U32 = 0


class ModifyChannelResponse(Struct, size=16):
    """MODIFY_CHANNEL_RESPONSE, to the guest, from `IRON` on."""

    type: U32 = MessageType.MODIFY_CHANNEL_RESPONSE
    padding: U32 = 0
    channel_id: U32 = 0
    status: U32 = 0
