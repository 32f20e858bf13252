"""Commands, features, log pages and events by number (NVMe Base 2.0, NVM Command Set 1.0)."""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "ALL_NAMESPACES",
    "AdminOpcode",
    "Cns",
    "ErrorEvent",
    "EventType",
    "FeatureId",
    "Fuse",
    "LogId",
    "NoticeEvent",
    "NvmOpcode",
    "Psdt",
    "Select",
    "SmartEvent",
]

ALL_NAMESPACES: Final = 0xFFFFFFFF


class AdminOpcode(enum.IntEnum):
    """Base 2.0 section 5."""

    DELETE_IO_SQ = 0x00
    CREATE_IO_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_IO_CQ = 0x04
    CREATE_IO_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT_REQUEST = 0x0C
    NAMESPACE_MANAGEMENT = 0x0D
    FIRMWARE_COMMIT = 0x10
    FIRMWARE_DOWNLOAD = 0x11
    NAMESPACE_ATTACHMENT = 0x15
    KEEP_ALIVE = 0x18
    DOORBELL_BUFFER_CONFIG = 0x7C
    FORMAT_NVM = 0x80
    SANITIZE = 0x84


class NvmOpcode(enum.IntEnum):
    """NVM Command Set 1.0 section 3.2, Base 2.0 section 7."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09
    VERIFY = 0x0C
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15
    COPY = 0x19


class Fuse(enum.IntEnum):
    """Whether a command belongs to its neighbour."""

    NONE = 0
    FIRST = 1
    SECOND = 2


class Psdt(enum.IntEnum):
    """How a command names its data."""

    PRP = 0
    SGL = 1  # metadata in one buffer
    SGL_METADATA = 2  # metadata by an SGL, too


class Cns(enum.IntEnum):
    """What IDENTIFY is asked (Base 2.0 figure 273)."""

    NAMESPACE = 0x00
    CONTROLLER = 0x01
    ACTIVE_NAMESPACES = 0x02
    DESCRIPTORS = 0x03
    NVM_SETS = 0x04
    NAMESPACE_OF_SET = 0x05
    CONTROLLER_OF_SET = 0x06
    ACTIVE_NAMESPACES_OF_SET = 0x07
    NAMESPACE_INDEPENDENT = 0x08
    ALLOCATED_NAMESPACES = 0x10
    ALLOCATED_NAMESPACE = 0x11
    CONTROLLERS_OF_NAMESPACE = 0x12
    CONTROLLERS = 0x13
    PRIMARY_CAPABILITIES = 0x14
    SECONDARY_CONTROLLERS = 0x15
    UUIDS = 0x17
    COMMAND_SETS = 0x1C


class FeatureId(enum.IntEnum):
    """Base 2.0 figure 317."""

    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    VOLATILE_WRITE_CACHE = 0x06
    NUMBER_OF_QUEUES = 0x07
    INTERRUPT_COALESCING = 0x08
    INTERRUPT_VECTOR = 0x09
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENTS = 0x0B
    AUTONOMOUS_POWER = 0x0C
    TIMESTAMP = 0x0E
    KEEP_ALIVE_TIMER = 0x0F
    HOST_BEHAVIOR = 0x16
    HOST_IDENTIFIER = 0x81
    RESERVATION_MASK = 0x82
    RESERVATION_PERSISTENCE = 0x83


class Select(enum.IntEnum):
    """Which value of a feature."""

    CURRENT = 0
    DEFAULT = 1
    SAVED = 2
    CAPABILITIES = 3


class LogId(enum.IntEnum):
    """Base 2.0 figure 202."""

    SUPPORTED = 0x00
    ERRORS = 0x01
    SMART = 0x02
    FIRMWARE_SLOTS = 0x03
    CHANGED_NAMESPACES = 0x04
    COMMAND_EFFECTS = 0x05
    RESERVATIONS = 0x80
    SANITIZE = 0x81


class EventType(enum.IntEnum):
    """Base 2.0 figure 145."""

    ERROR = 0
    SMART = 1
    NOTICE = 2
    COMMAND_SET = 6


class ErrorEvent(enum.IntEnum):
    """What went wrong."""

    INVALID_DOORBELL = 0
    INVALID_DOORBELL_VALUE = 1


class SmartEvent(enum.IntEnum):
    """What is no longer well."""

    RELIABILITY = 0
    TEMPERATURE = 1
    SPARE = 2


class NoticeEvent(enum.IntEnum):
    """What has changed."""

    NAMESPACE_ATTRIBUTES = 0
    FIRMWARE_ACTIVATION = 1
