"""What a disk's errors are in SCSI's words."""

from __future__ import annotations

from drivebay.disk.errors import (
    DiskError,
    IllegalBlock,
    InvalidInput,
    IoError,
    Medium,
    MediumError,
    MemoryAccess,
    ReadOnly,
)
from drivebay.scsi.sense import (
    INTERNAL_TARGET_FAILURE,
    INVALID_FIELD_IN_CDB,
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    UNRECOVERED_READ_ERROR,
    Sense,
    SenseKey,
)

__all__ = ["sense_of"]

_MEDIUM = {
    Medium.UNRECOVERED_READ: UNRECOVERED_READ_ERROR,
    Medium.WRITE_FAULT: Sense(SenseKey.MEDIUM_ERROR, 0x03, 0x00),
    Medium.GUARD_CHECK: Sense(SenseKey.MEDIUM_ERROR, 0x10, 0x01),
    Medium.APPLICATION_TAG: Sense(SenseKey.MEDIUM_ERROR, 0x10, 0x02),
    Medium.REFERENCE_TAG: Sense(SenseKey.MEDIUM_ERROR, 0x10, 0x03),
}
_OTHERS: dict[type[DiskError], Sense] = {
    IllegalBlock: LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    InvalidInput: INVALID_FIELD_IN_CDB,
    MemoryAccess: Sense(SenseKey.ABORTED_COMMAND, 0x4B, 0x00),  # DATA PHASE ERROR
    ReadOnly: Sense(SenseKey.DATA_PROTECT, 0x27, 0x00),
}


def sense_of(error: DiskError, block: int, sectors_per_block: int = 1) -> Sense:
    """The sense for `error`, met at logical block `block` or after it.

    Media errors carry the block where it happened, or else `block`. For a failed read only:
    an `IoError` is an unrecovered read.
    """
    if isinstance(error, MediumError):
        if error.sector is not None:
            block = error.sector // sectors_per_block
        return _MEDIUM[error.kind]._replace(information=block)
    if isinstance(error, IoError):
        return UNRECOVERED_READ_ERROR._replace(information=block)
    return _OTHERS.get(type(error), INTERNAL_TARGET_FAILURE)
