"""How commands end: status codes by type (NVMe Base 2.0 section 3.3.3.2), and who raises them."""

from __future__ import annotations

import enum

from drivebay.disk.errors import (
    AbortedByPreempt,
    DiskError,
    IllegalBlock,
    InvalidInput,
    Medium,
    MediumError,
    MemoryAccess,
    NoSpace,
    ReadOnly,
    ReservationConflict,
    UnsupportedEject,
)

__all__ = ["DNR", "MORE", "Refused", "Status", "status_name", "status_of"]

DNR = 1 << 14
"""Do not retry. Places are those of the status field without its phase tag."""
MORE = 1 << 13
"""The error log has more."""


class Status(enum.IntEnum):
    """Status code type and status code, SCT << 8 | SC."""

    # Generic, figure 95.
    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    COMMAND_ID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL_ERROR = 0x006
    ABORT_REQUESTED = 0x007
    ABORTED_SQ_DELETION = 0x008
    ABORTED_FAILED_FUSED = 0x009
    ABORTED_MISSING_FUSED = 0x00A
    INVALID_NAMESPACE_OR_FORMAT = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    INVALID_SGL_SEGMENT = 0x00D
    INVALID_NUMBER_OF_SGL_DESCRIPTORS = 0x00E
    DATA_SGL_LENGTH_INVALID = 0x00F
    SGL_TYPE_INVALID = 0x011
    PRP_OFFSET_INVALID = 0x013
    ATOMIC_WRITE_UNIT_EXCEEDED = 0x014
    OPERATION_DENIED = 0x015
    HOST_ID_INCONSISTENT = 0x018
    KEEP_ALIVE_EXPIRED = 0x019
    ABORTED_PREEMPT = 0x01B
    SANITIZE_FAILED = 0x01C
    SANITIZE_IN_PROGRESS = 0x01D
    NAMESPACE_WRITE_PROTECTED = 0x020
    LBA_OUT_OF_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081
    NAMESPACE_NOT_READY = 0x082
    RESERVATION_CONFLICT = 0x083
    FORMAT_IN_PROGRESS = 0x084

    # Command specific, figure 96 and NVM Command Set figure 18.
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE_ID = 0x101
    INVALID_QUEUE_SIZE = 0x102
    ABORT_LIMIT_EXCEEDED = 0x103
    ASYNC_EVENT_LIMIT_EXCEEDED = 0x105
    INVALID_FIRMWARE_SLOT = 0x106
    INVALID_FIRMWARE_IMAGE = 0x107
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_FORMAT = 0x10A
    FIRMWARE_NEEDS_RESET = 0x10B
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    FEATURE_NOT_PER_NAMESPACE = 0x10F
    OVERLAPPING_RANGE = 0x114
    INSUFFICIENT_CAPACITY = 0x115
    NAMESPACE_ID_UNAVAILABLE = 0x116
    ALREADY_ATTACHED = 0x118
    NOT_ATTACHED = 0x11A
    THIN_PROVISIONING_UNSUPPORTED = 0x11B
    CONTROLLER_LIST_INVALID = 0x11C
    CONFLICTING_ATTRIBUTES = 0x180
    INVALID_PROTECTION_INFORMATION = 0x181
    WRITE_TO_READ_ONLY_RANGE = 0x182
    COMMAND_SIZE_LIMIT_EXCEEDED = 0x183

    # Media and data integrity, figure 97.
    WRITE_FAULT = 0x280
    UNRECOVERED_READ_ERROR = 0x281
    GUARD_CHECK_ERROR = 0x282
    APPLICATION_TAG_ERROR = 0x283
    REFERENCE_TAG_ERROR = 0x284
    COMPARE_FAILURE = 0x285


class Refused(Exception):
    """A command that ends with `status`; `why` is for the log.

    It says so for good (DNR) unless `retry`: then the same command may succeed later.
    """

    def __init__(self, status: Status, why: str, *, retry: bool = False) -> None:
        super().__init__(why)
        self.status, self.retry = status, retry

    @property
    def field(self) -> int:
        """The status field, without phase tag."""
        return self.status | (0 if self.retry else DNR)


_MEDIUM = {
    Medium.UNRECOVERED_READ: Status.UNRECOVERED_READ_ERROR,
    Medium.WRITE_FAULT: Status.WRITE_FAULT,
    Medium.GUARD_CHECK: Status.GUARD_CHECK_ERROR,
    Medium.APPLICATION_TAG: Status.APPLICATION_TAG_ERROR,
    Medium.REFERENCE_TAG: Status.REFERENCE_TAG_ERROR,
}
_DISK: dict[type[DiskError], tuple[Status, bool]] = {
    IllegalBlock: (Status.LBA_OUT_OF_RANGE, False),
    ReadOnly: (Status.NAMESPACE_WRITE_PROTECTED, False),
    MemoryAccess: (Status.DATA_TRANSFER_ERROR, False),
    InvalidInput: (Status.INVALID_FIELD, False),
    UnsupportedEject: (Status.INVALID_FIELD, False),
    ReservationConflict: (Status.RESERVATION_CONFLICT, False),
    AbortedByPreempt: (Status.ABORTED_PREEMPT, False),
    NoSpace: (Status.CAPACITY_EXCEEDED, True),
}


def status_of(error: BaseException) -> int:
    """The status field, without phase tag, for what a command has raised.

    What we do not know is an internal error, which may pass.
    """
    if isinstance(error, Refused):
        return error.field
    if isinstance(error, MediumError):
        return _MEDIUM[error.kind] | DNR
    status, retry = _DISK.get(type(error), (Status.INTERNAL_ERROR, True))  # type: ignore[arg-type]
    return status | (0 if retry else DNR)


def status_name(field: int) -> str:
    """What a status field says, for logs and errors."""
    code = field & 0x7FF
    return Status(code).name if code in Status._value2member_map_ else f"status {code:#x}"
