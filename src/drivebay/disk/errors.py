"""What can go wrong in a disk, in terms every controller can translate to its own status.

An operation of a `Disk` raises one of these and nothing else; anything else is a bug of ours, which
the controller reports as a device error and logs. OpenVMM's mapping table (reference, section 1.3)
is where the controllers' statuses come from.
"""

from __future__ import annotations

import enum
import errno
import os

__all__ = [
    "AbortedByPreempt",
    "DiskError",
    "DiskOpenError",
    "IllegalBlock",
    "InvalidInput",
    "IoError",
    "Medium",
    "MediumError",
    "MemoryAccess",
    "NoSpace",
    "ReadOnly",
    "ReservationConflict",
    "UnsupportedEject",
    "from_os_error",
]


class DiskError(Exception):
    """An operation on a disk failed; the disk is still usable."""


class IllegalBlock(DiskError):
    """The sector range does not lie on the disk."""

    def __init__(self, sector: int, count: int, sectors: int) -> None:
        super().__init__(f"sectors {sector}+{count} of a disk of {sectors}")


class InvalidInput(DiskError):
    """The request makes no sense to this disk, wherever on it."""


class IoError(DiskError):
    """The host failed. `errno` says how."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"{what}: {os.strerror(number)}")
        self.errno = number


class NoSpace(IoError):
    """The medium under the disk is full (ENOSPC, EDQUOT): a write may succeed later."""


class Medium(enum.Enum):
    """Why a sector is bad."""

    UNRECOVERED_READ = "unrecovered read error"
    WRITE_FAULT = "write fault"
    GUARD_CHECK = "guard check failed"
    APPLICATION_TAG = "application tag check failed"
    REFERENCE_TAG = "reference tag check failed"


class MediumError(DiskError):
    """Some sectors are bad. `sector` is the first of them, where it is known."""

    def __init__(self, kind: Medium, sector: int | None = None) -> None:
        at = "" if sector is None else f" at sector {sector}"
        super().__init__(kind.value + at)
        self.kind, self.sector = kind, sector


class MemoryAccess(DiskError):
    """Guest memory that the request named could not be reached."""


class ReadOnly(DiskError):
    """A write to a disk that takes none."""


class ReservationConflict(DiskError):
    """Another host holds a reservation that forbids this."""


class AbortedByPreempt(DiskError):
    """Aborted by another host's PREEMPT AND ABORT."""


class UnsupportedEject(DiskError):
    """The medium cannot be ejected."""


class DiskOpenError(Exception):
    """A disk cannot be opened. The message is one line; `hint` says what to do about it, or is
    empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def from_os_error(error: OSError, what: str) -> DiskError:
    """The disk's error for a failed system call; `what` names the operation and the file."""
    number = error.errno or errno.EIO
    if number in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(number, what)
    if number == errno.EBADE:  # how Linux reports a reservation conflict of a SCSI or NVMe disk
        return ReservationConflict(what)
    if number == errno.EFAULT:  # the pages behind the buffer are gone: guest memory was truncated
        return MemoryAccess(f"{what}: {os.strerror(number)}")
    if number in (errno.EROFS, errno.EPERM):
        return ReadOnly(f"{what}: {os.strerror(number)}")
    return IoError(number, what)
