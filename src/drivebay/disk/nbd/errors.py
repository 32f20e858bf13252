"""A disk's errors as NBD's error values, and back ("Error values")."""

from __future__ import annotations

import errno

from drivebay.disk.errors import (
    DiskError,
    IllegalBlock,
    InvalidInput,
    IoError,
    NoSpace,
    ReadOnly,
)
from drivebay.disk.nbd.messages import Error

__all__ = ["disk_error", "number_of"]


def number_of(error: BaseException, writing: bool = False) -> Error:
    """What a client is told; `writing` that it sent data, for which there is no space there."""
    if isinstance(error, IllegalBlock):
        return Error.ENOSPC if writing else Error.EINVAL
    if isinstance(error, NoSpace):
        return Error.ENOSPC
    if isinstance(error, ReadOnly):
        return Error.EPERM
    if isinstance(error, InvalidInput):
        return Error.EINVAL
    return Error.EIO


def disk_error(number: int, what: str) -> DiskError:
    """What a server's error value means to whoever uses the disk."""
    if number == Error.ENOSPC:
        return NoSpace(errno.ENOSPC, what)
    if number == Error.EPERM:
        return ReadOnly(what)
    if number in (Error.EINVAL, Error.EOVERFLOW, Error.ENOTSUP):
        return InvalidInput(f"{what}: {Error(number).name}")
    return IoError(number if number in errno.errorcode else errno.EIO, what)
