"""What a driver of the SCSI host device sees, virtio 1.2 section 5.6."""

from __future__ import annotations

import enum
from typing import Annotated, Final

from drivebay.wire import U8, U16, U32, U64, Struct

Bytes8 = Annotated[bytes, "8s"]

DEVICE_ID_SCSI: Final = 8
SENSE_BYTES: Final = 96
CDB_BYTES: Final = 32
"""How many there are until the driver says otherwise, section 5.6.4."""
EVENT_BYTES: Final = 16


class ScsiFeature(enum.IntEnum):
    """Feature bits, section 5.6.3."""

    INOUT = 0
    HOTPLUG = 1
    CHANGE = 2
    T10_PI = 3


class ScsiConfig(Struct, size=36):
    """The configuration space, section 5.6.4."""

    num_queues: U32 = 1
    seg_max: U32 = 0
    max_sectors: U32 = 0xFFFF
    cmd_per_lun: U32 = 128
    event_info_size: U32 = EVENT_BYTES
    sense_size: U32 = SENSE_BYTES
    cdb_size: U32 = CDB_BYTES
    max_channel: U16 = 0
    max_target: U16 = 0
    max_lun: U32 = 0


class ScsiRequest(Struct, size=19):
    """What precedes the data of a command, section 5.6.6.1; the CDB follows, then the data."""

    lun: Bytes8
    id: U64
    task_attr: U8
    prio: U8
    crn: U8


class ScsiAnswer(Struct, size=12):
    """What precedes the data that the device writes; room for sense data follows, then the data."""

    sense_len: U32 = 0
    residual: U32 = 0
    status_qualifier: U16 = 0
    status: U8 = 0
    response: U8 = 0


class ScsiResponse(enum.IntEnum):
    """Responses to commands and to task management, section 5.6.6."""

    OK = 0
    OVERRUN = 1
    ABORTED = 2
    BAD_TARGET = 3
    RESET = 4
    BUSY = 5
    TRANSPORT_FAILURE = 6
    TARGET_FAILURE = 7
    NEXUS_FAILURE = 8
    FAILURE = 9
    FUNCTION_SUCCEEDED = 10
    """Of a query: there is such a task. That another function was done is told as `OK`."""
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12


FUNCTION_COMPLETE: Final = ScsiResponse.OK
"""What 0 is called where it answers a task management function."""


class ScsiAttribute(enum.IntEnum):
    """Task attributes, section 5.6.6.1."""

    SIMPLE = 0
    ORDERED = 1
    HEAD = 2
    ACA = 3


class ScsiControl(enum.IntEnum):
    """Requests of the control queue, section 5.6.6.2."""

    TASK_MANAGEMENT = 0
    NOTIFICATION_QUERY = 1
    NOTIFICATION_SUBSCRIBE = 2


class ScsiFunction(enum.IntEnum):
    """Task management functions."""

    ABORT_TASK = 0
    ABORT_TASK_SET = 1
    CLEAR_ACA = 2
    CLEAR_TASK_SET = 3
    I_T_NEXUS_RESET = 4
    LOGICAL_UNIT_RESET = 5
    QUERY_TASK = 6
    QUERY_TASK_SET = 7


class TaskManagementRequest(Struct, size=24):
    """A task management function; its answer is a byte."""

    type: U32
    subtype: U32
    lun: Bytes8
    id: U64


class NotificationRequest(Struct, size=16):
    """A query of asynchronous notifications, or a subscription."""

    type: U32
    lun: Bytes8
    event_requested: U32


class NotificationAnswer(Struct, size=5):
    """What is answered to it."""

    event_actual: U32 = 0
    response: U8 = 0


class ScsiEventKind(enum.IntEnum):
    """Events, section 5.6.6.3."""

    NO_EVENT = 0
    TRANSPORT_RESET = 1
    ASYNC_NOTIFY = 2
    PARAM_CHANGE = 3


EVENTS_MISSED: Final = 1 << 31
RESET_HARD, RESET_RESCAN, RESET_REMOVED = 0, 1, 2


class ScsiEvent(Struct, size=EVENT_BYTES):
    """An event, in a buffer that the driver has left for one."""

    event: U32 = 0
    lun: Bytes8 = bytes(8)
    reason: U32 = 0
