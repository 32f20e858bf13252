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
    NoSpace,
    ReadOnly,
    UnsupportedEject,
)
from drivebay.scsi.sense import (
    DATA_PHASE_ERROR,
    INTERNAL_TARGET_FAILURE,
    INVALID_COMMAND_OPERATION_CODE,
    INVALID_FIELD_IN_CDB,
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    SPACE_ALLOCATION_FAILED,
    UNRECOVERED_READ_ERROR,
    WRITE_ERROR,
    WRITE_PROTECTED,
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
    MemoryAccess: DATA_PHASE_ERROR,
    ReadOnly: WRITE_PROTECTED,
    UnsupportedEject: INVALID_COMMAND_OPERATION_CODE,
}


def sense_of(
    error: DiskError, block: int | None, sectors_per_block: int = 1, *, writing: bool = False
) -> Sense:
    """The sense for `error`, met at logical block `block` or after it, or at none.

    Media errors carry the block where it happened, or else `block`.
    """
    if isinstance(error, MediumError):
        if error.sector is not None:
            block = error.sector // sectors_per_block
        return _MEDIUM[error.kind]._replace(information=block)
    if isinstance(error, NoSpace) and writing:
        return SPACE_ALLOCATION_FAILED
    if isinstance(error, IoError):
        return (WRITE_ERROR if writing else UNRECOVERED_READ_ERROR)._replace(information=block)
    return _OTHERS.get(type(error), INTERNAL_TARGET_FAILURE)
