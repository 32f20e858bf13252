"""A disk in a file: raw sectors from its first byte to its last."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import struct
from contextlib import suppress
from typing import Final, NamedTuple

from drivebay.disk.backends.fd import NOT_SUPPORTED, FdDisk, check_size
from drivebay.disk.backends.linux import KEEP_SIZE, PUNCH_HOLE, fallocate, file_system
from drivebay.disk.buffers import aligned
from drivebay.disk.contract import MAX_SECTOR_SIZE
from drivebay.disk.errors import DiskOpenError

__all__ = ["CACHE_MODES", "CacheMode", "FileDisk", "Limits", "wrong_type"]


class CacheMode(NamedTuple):
    """One line of QEMU's table of cache modes."""

    write_cache: bool
    """The guest sees a volatile write cache ("WCE"), and flushes it."""
    direct: bool
    """The file is open with O_DIRECT: past the host's page cache."""
    syncs: bool = True
    """A flush, and a write that must be stable, really are."""


CACHE_MODES: Final = {
    "writeback": CacheMode(write_cache=True, direct=False),
    "none": CacheMode(write_cache=True, direct=True),
    "writethrough": CacheMode(write_cache=False, direct=False),
    "directsync": CacheMode(write_cache=False, direct=True),
    "unsafe": CacheMode(write_cache=True, direct=False, syncs=False),
}

IN_MEMORY: Final = ("tmpfs", "ramfs")

# QEMU's locks: one byte for each permission that somebody uses, and one that somebody forbids.
QEMU_USES: Final = 100
QEMU_FORBIDS: Final = 200
CONSISTENT_READ, WRITE, RESIZE = 0, 1, 3
FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process


class Limits(NamedTuple):
    """What the medium says of itself. Sizes in bytes."""

    sector_size: int
    block_size: int
    can_unmap: bool
    memory: bool = False


class FileDisk(FdDisk):
    """The file at `path`, locked against other writers while it is open.

    `cache` names one of `CACHE_MODES`. With `create` a missing file is made with that many bytes,
    and an existing one must have exactly as many: what it holds is never cut off.
    With `ragged` the file may end in the middle of a sector, whose rest reads zero, as images do.

    Raises `DiskOpenError`.
    """

    kind = "file"
    missing = "add ;create=SIZE to make it"
    """What to do about a path that is not there, where it is to be written."""

    def __init__(
        self,
        path: str,
        *,
        cache: str = "writeback",
        create: int | None = None,
        sector_size: int | None = None,
        read_only: bool = False,
        ragged: bool = False,
    ) -> None:
        if cache not in CACHE_MODES:
            raise DiskOpenError(
                f"no cache mode is called {cache}", f"there are {', '.join(CACHE_MODES)}"
            )
        mode = CACHE_MODES[cache]
        self.path, self.cache = path, cache
        if create is not None and not read_only:
            _create(path, create, sector_size or 512)
        fd = _open(path, read_only, mode.direct, self.missing)
        self._fd = fd  # whatever goes wrong now, `close` closes it
        try:
            self._check_type(os.fstat(fd).st_mode)
            _lock(fd, path, read_only)
            size = os.lseek(fd, 0, os.SEEK_END)
            _check_created(path, size, create)
            limits = self._limits(size, sector_size, read_only)
            sector_size = limits.sector_size
            if mode.direct:
                _check_direct(fd, path, sector_size)
            if ragged:
                size += -size % sector_size
            super().__init__(
                fd,
                path,
                size,
                sector_size=sector_size,
                block_size=limits.block_size,
                read_only=read_only,
                memory=limits.memory,
                direct=mode.direct,
                write_cache=mode.write_cache,
                syncs=mode.syncs,
                can_punch=limits.can_unmap and not read_only,
                ragged=ragged,
            )
        except OSError as error:
            self.close()
            raise DiskOpenError(f"{path}: {error.strerror}") from error
        except DiskOpenError:
            self.close()
            raise
        self.disk_id = hashlib.sha256(self._identity()).digest()[:16]

    def _check_type(self, mode: int) -> None:
        if stat.S_ISREG(mode):
            return
        if stat.S_ISBLK(mode):
            raise DiskOpenError(f"{self.path}: is a block device", f"write block:{self.path}")
        raise wrong_type(self.path, mode, "a disk is a file or a block device")

    def _limits(self, size: int, sector_size: int | None, read_only: bool) -> Limits:
        return Limits(
            sector_size or 512,
            _power_of_two(os.fstat(self._fd).st_blksize),
            can_unmap=not read_only and _can_punch(self._fd, size),
            memory=file_system(self._fd) in IN_MEMORY,
        )

    def _identity(self) -> bytes:
        """What tells this disk from any other."""
        return b"drivebay file " + os.fsencode(os.path.realpath(self.path))

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Its path and cache mode."""
        return {"path": self.path, "cache": self.cache}


def _create(path: str, size: int, sector_size: int) -> None:
    """Make the file if it is missing."""
    check_size(path, size, sector_size)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.unlink(path)
        raise DiskOpenError(f"{path}: cannot create: {error.strerror}") from error
    finally:
        os.close(fd)


def _open(path: str, read_only: bool, direct: bool, missing: str) -> int:
    # O_NONBLOCK: a FIFO must not hang the open. O_EXCL: a mounted block device must refuse it.
    flags = os.O_CLOEXEC | os.O_NONBLOCK | (os.O_RDONLY if read_only else os.O_RDWR)
    try:
        if not read_only and stat.S_ISBLK(os.stat(path).st_mode):
            flags |= os.O_EXCL
        return os.open(path, flags | (os.O_DIRECT if direct else 0))
    except OSError as error:
        if direct and error.errno == errno.EINVAL:
            raise DiskOpenError(
                f"{path}: this file system has no direct I/O", "leave out ;direct or ;cache"
            ) from error
        raise _cannot_open(path, error, "" if read_only else missing) from error


def _cannot_open(path: str, error: OSError, missing: str = "") -> DiskOpenError:
    folder = os.path.dirname(path) or "."
    hint = ""
    if error.errno == errno.ENOENT:
        hint = missing if os.path.isdir(folder) else f"there is no folder {folder}"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        readable = os.access(path, os.R_OK)
        hint = (
            "you may read it: add ,ro or --read-only"
            if readable
            else f"check the permissions of {path}"
        )
    elif error.errno == errno.EBUSY:
        hint = "it is mounted, or another program uses it"
    elif error.errno == errno.EISDIR:
        hint = "a disk is a file or a block device"
    return DiskOpenError(f"{path}: {error.strerror}", hint)


def wrong_type(path: str, mode: int, hint: str) -> DiskOpenError:
    """The error for what `path` is, going by the `mode` of its status."""
    names = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a character device",
    }
    what = names.get(stat.S_IFMT(mode), "something else")
    return DiskOpenError(f"{path}: is {what}", hint)


def _lock(fd: int, path: str, read_only: bool) -> None:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(path) from error
    except OSError as error:
        if error.errno not in (*NOT_SUPPORTED, errno.ENOLCK):  # this file system has no locks
            raise
    if _qemu_has_it(fd, read_only):
        raise _in_use(path)


def _in_use(path: str) -> DiskOpenError:
    return DiskOpenError(
        f"{path}: in use by another disk or process",
        "readers may share a disk, a writer must have it alone: look for a drivebay or a QEMU",
    )


def _qemu_has_it(fd: int, read_only: bool) -> bool:
    """Take the locks that QEMU would, which knows no `flock`, and look for the opposite ones."""
    uses = (CONSISTENT_READ,) if read_only else (CONSISTENT_READ, WRITE, RESIZE)
    forbids = (WRITE, RESIZE)
    taken = [QEMU_USES + bit for bit in uses] + [QEMU_FORBIDS + bit for bit in forbids]
    opposite = [QEMU_FORBIDS + bit for bit in uses] + [QEMU_USES + bit for bit in forbids]
    try:
        for byte in taken:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        for byte in opposite:
            probe = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind, *_ = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))
            if kind != fcntl.F_UNLCK:
                return True
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        if error.errno not in (*NOT_SUPPORTED, errno.ENOLCK, errno.EINVAL):  # no such locks here
            raise
    return False


def _check_created(path: str, size: int, create: int | None) -> None:
    if create is not None and size != create:
        raise DiskOpenError(
            f"{path}: has {size} bytes, not the {create} that create= asks for",
            "leave out ;create to use it as it is",
        )
    if size == 0:
        raise DiskOpenError(f"{path}: is empty", f"give it a size: truncate -s 64M {path}")


def _check_direct(fd: int, path: str, sector_size: int) -> None:
    """Read one sector: a medium of larger blocks refuses, and would refuse the guest."""
    try:
        os.preadv(fd, [aligned(sector_size)], 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise DiskOpenError(
            f"{path}: no direct I/O in sectors of {sector_size} bytes here",
            "add ;sector=4096 or leave out ;direct",
        ) from error


def _can_punch(fd: int, size: int) -> bool:
    """Whether holes can be punched, tried past the end where there is nothing to lose."""
    with suppress(OSError):
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, size, 4096)
        return True
    return False


def _power_of_two(block: int) -> int:
    return block if block & (block - 1) == 0 and 512 <= block <= MAX_SECTOR_SIZE else 4096
