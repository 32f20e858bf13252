"""The sectors of a file descriptor: what the file and the RAM disk share.

What cannot block is done at once, on the engine's thread: a system call costs a microsecond, a
worker's round trip several. What may block is tried with RWF_NOWAIT, and goes to a worker if the
kernel says that it would.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Final

from drivebay.disk.backends.linux import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from drivebay.disk.backends.transfer import IOV_MAX, Call, move, read_bounced, write_bounced
from drivebay.disk.buffers import ZEROES, cut, zero, zeroes
from drivebay.disk.contract import (
    MAX_BYTES,
    MAX_SECTOR_SIZE,
    MOST_EXTENTS,
    Buffers,
    Disk,
    Extent,
    Operation,
    Unmap,
)
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    IllegalBlock,
    InvalidInput,
    IoError,
    Medium,
    MediumError,
    ReadOnly,
    from_os_error,
)
from drivebay.suspend import DONE, Blocking, Promise

__all__ = ["FdDisk", "check_size"]

NOT_SUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
INLINE: Final = 4 << 20
"""More bytes than this go to a worker, cached or not: copying them would keep everybody waiting."""

# A buffered write is a copy into the page cache, 1 to 5 us, until the kernel makes the writer wait
# for the medium. ext4 knows no NOWAIT for it, so the clock tells: after a slow write the next go to
# workers for ten times as long as it took, so that the engine loses a tenth of its time at most.
# Less than SLOW seconds is what another process takes when it gets the processor for once.
SLOW: Final = 0.005
PAUSE: Final = 10


class FdDisk(Disk):
    """The first `size` bytes of `fd`, which it owns.

    `name` is what errors call it. `memory` says that reads and writes never wait for a medium;
    `direct` that the fd is open with O_DIRECT, which waits for it always and may ask for aligned
    buffers; `ragged` that the file may end in the last sector, whose rest reads zero. Without
    `write_cache` every write is stable when it completes; without `syncs` nothing is ever done to
    make one so.

    One that is dropped is closed, as Python's files are.

    Raises `DiskOpenError` if the sizes make no disk, and `OSError`.
    """

    _fd = _sync_fd = -1

    def __init__(
        self,
        fd: int,
        name: str,
        size: int,
        *,
        sector_size: int = 512,
        block_size: int = 4096,
        read_only: bool = False,
        memory: bool = False,
        direct: bool = False,
        write_cache: bool = True,
        syncs: bool = True,
        can_punch: bool = True,
        ragged: bool = False,
    ) -> None:
        super().__init__()
        self._fd = fd  # first: who fails to make a disk has to close it
        check_size(name, size, sector_size)
        self._name = name
        self.sector_size = sector_size
        self.physical_sector_size = max(sector_size, block_size)
        self.read_only = read_only
        self._shift = sector_size.bit_length() - 1
        self._set_size(size)

        self._memory = memory
        self._direct = direct
        self._syncs = syncs and not read_only
        self._write_through = self._syncs and not write_cache
        self.volatile_cache = write_cache
        self._inline_reads = not direct
        self._inline_writes = not (read_only or direct or self._write_through)
        self._read_flags = self._write_flags = 0 if memory or direct else os.RWF_NOWAIT
        self._write_pause = 0.0  # writes go to workers until then

        self._ragged = ragged
        self._can_punch = can_punch
        self._can_zero_range = not memory
        self.unmap_behaviour = Unmap.ZEROES if can_punch else Unmap.IGNORED
        self.optimal_unmap_sectors = self.physical_sector_size // sector_size

        self._sync_lock = threading.Lock()
        self._syncs_begun = 0
        self._lost: OSError | None = None
        self._sync_fd = self._own_error_cursor() if self._syncs else -1
        self._changing = 0  # changes under way on worker threads
        self._resizing = False
        self._still: Promise[None] | None = None  # the resize waits for them to end

    # -- reading ---------------------------------------------------------------------------------

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Fill `buffers`. Raises `MediumError` where the file ends before the disk does."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << self._shift
        done, error = 0, None
        if self._inline_reads and 0 <= offset <= self._bytes - length and 0 < length <= INLINE:
            try:
                done = os.preadv(self._fd, buffers, offset, self._read_flags)
                if done == length:
                    return DONE
            except OSError as failure:
                error = failure
        return self._read_slowly(sector, buffers, length, done, error)

    async def _read_slowly(
        self, sector: int, buffers: Buffers, length: int, done: int, error: OSError | None
    ) -> None:
        """What was not read at once: `done` bytes were, and `error` may say why not all."""
        offset = sector << self._shift
        if sector < 0 or offset + (length or 1) > self._bytes:
            raise IllegalBlock(sector, length >> self._shift, self.sector_count)
        if error is not None and not isinstance(error, BlockingIOError):
            self._check_retry(error, "read", buffers, self._read_flags)
            self._inline_reads = len(buffers) > IOV_MAX
        if done < length:
            await Blocking(partial(self._read_rest, offset, buffers, done, length))

    def _read_rest(self, offset: int, buffers: Buffers, done: int, length: int) -> None:
        try:
            done = self._move(partial(os.preadv, self._fd), offset, buffers, done, length)
        except OSError as error:
            raise self._failed(error, "read") from error
        if self._ragged and length - done < self.sector_size:  # all but a part of the last sector
            zero(cut(buffers, done, length))
        elif done < length:  # the file was truncated behind our back
            self.check_range(offset >> self._shift, length >> self._shift)
            raise MediumError(Medium.UNRECOVERED_READ, (offset + done) >> self._shift)

    def _move(
        self, call: Call, offset: int, buffers: Buffers, done: int, length: int, write: bool = False
    ) -> int:
        try:
            return move(call, offset, buffers, done, length)
        except OSError as error:
            if not (self._direct and error.errno == errno.EINVAL):
                raise
        return (write_bounced if write else read_bounced)(call, offset, buffers, length)

    # -- writing ---------------------------------------------------------------------------------

    def write(self, sector: int, buffers: Buffers, fua: bool = False) -> Operation:
        """Write `buffers`. Raises `NoSpace` when the medium is full."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        offset = sector << self._shift
        done, error = 0, None
        stable = self._write_through or (fua and self._syncs)
        inline = self._inline_writes and not stable
        if inline and 0 <= offset <= self._bytes - length and 0 < length <= INLINE:
            try:
                if self._memory:
                    done = os.pwritev(self._fd, buffers, offset)
                else:
                    done = self._timed_write(buffers, offset)
                if done == length:
                    return DONE
            except OSError as failure:
                error = failure
        return self._write_slowly(sector, buffers, stable, length, done, error)

    async def _write_slowly(
        self,
        sector: int,
        buffers: Buffers,
        stable: bool,
        length: int,
        done: int,
        error: OSError | None,
    ) -> None:
        """What was not written at once: `done` bytes were, and `error` may say why not all."""
        offset = sector << self._shift
        if sector < 0 or offset + (length or 1) > self._bytes:
            raise IllegalBlock(sector, length >> self._shift, self.sector_count)
        if self.read_only:
            raise ReadOnly(self._name)
        if error is not None and not isinstance(error, BlockingIOError):
            self._check_retry(error, "write", buffers, self._write_flags)
            if len(buffers) <= IOV_MAX:
                self._write_flags = 0
        if done < length:
            await self._change(partial(self._write_rest, offset, buffers, done, length, stable))

    def _timed_write(self, buffers: Buffers, offset: int) -> int:
        started = perf_counter()
        if started < self._write_pause:
            return 0
        done = os.pwritev(self._fd, buffers, offset, self._write_flags)
        if (took := perf_counter() - started) > SLOW:
            self._write_pause = started + took * PAUSE
        return done

    def _write_rest(
        self, offset: int, buffers: Buffers, done: int, length: int, stable: bool
    ) -> None:
        flags = os.RWF_DSYNC if stable else 0

        def call(part: Buffers, at: int) -> int:
            return os.pwritev(self._fd, part, at, flags)

        try:
            done = self._move(call, offset, buffers, done, length, write=True)
        except OSError as error:
            if not (stable and error.errno in NOT_SUPPORTED):
                raise self._failed(error, "write") from error
            self._write_rest(offset, buffers, done, length, stable=False)
            self._sync(self._syncs_begun)
            return
        if done < length:
            raise IoError(errno.EIO, f"write {self._name}")

    async def _change(self, call: Callable[[], None]) -> None:
        """Change the file on a worker; a resize waits until nobody does."""
        self._changing += 1
        try:
            await Blocking(call)
        finally:
            self._changing -= 1
            if self._changing == 0 and self._still is not None:
                self._still.give(None)

    # -- stability -------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Make completed writes stable. Once it has failed it fails until the disk is reopened:
        the kernel has dropped the pages it could not write, and nobody can say which they were.
        """
        if self._syncs and not self._write_through:
            await Blocking(partial(self._sync, self._syncs_begun))

    def _sync(self, begun: int) -> None:
        """Sync, or find that a sync begun after the caller's writes, the `begun`-th, has done it.

        Under the lock, so that of two flushes that cover a lost write both fail.
        """
        with self._sync_lock:
            if self._lost is None and self._syncs_begun == begun:
                self._syncs_begun += 1
                try:
                    os.fdatasync(self._sync_fd)
                except OSError as error:
                    self._lost = error
            if self._lost is not None:
                raise self._failed(self._lost, "flush") from self._lost

    def _own_error_cursor(self) -> int:
        # The kernel reports a failed write-back once to each open file description. With one of
        # its own a flush hears of every failure, also of those that a FUA write was told of.
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDWR | os.O_CLOEXEC)

    # -- holes -----------------------------------------------------------------------------------

    async def unmap(self, sector: int, count: int) -> None:
        """Punch a hole, where the file system can."""
        self._check_change(sector, count)
        if self._can_punch and count:
            await self._change(partial(self._punch, sector << self._shift, count << self._shift))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero the range without moving data, where the file system can."""
        self._check_change(sector, count)
        if count:
            offset, length = sector << self._shift, count << self._shift
            await self._change(partial(self._zero, offset, length, fua, unmap))

    def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self._name)

    def _punch(self, offset: int, length: int) -> None:
        try:
            fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
        except OSError as error:
            raise self._failed(error, "unmap") from error
        if self._write_through:
            self._sync(self._syncs_begun)

    def _zero(self, offset: int, length: int, fua: bool, unmap: bool) -> None:
        if self._can_punch and (unmap or self._memory):
            self._punch(offset, length)
        elif not self._zeroed_range(offset, length):
            chunk = len(ZEROES) * 16
            for start in range(offset, offset + length, chunk):
                size = min(chunk, offset + length - start)
                self._write_rest(start, zeroes(size), 0, size, stable=False)
        if self._write_through or (fua and self._syncs):
            self._sync(self._syncs_begun)

    def _zeroed_range(self, offset: int, length: int) -> bool:
        if self._can_zero_range:
            try:
                fallocate(self._fd, ZERO_RANGE | KEEP_SIZE, offset, length)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise self._failed(error, "write zeroes") from error
                self._can_zero_range = False
        return self._can_zero_range

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Truncate or extend the file. Raises `InvalidInput` while another resize is under way."""
        size = sector_count << self._shift
        if self.read_only:
            raise ReadOnly(self._name)
        if not 0 < size <= MAX_BYTES:
            raise InvalidInput(f"{self._name}: cannot have {sector_count} sectors")
        if self._resizing:
            raise InvalidInput(f"{self._name}: a resize is under way")
        before = self._bytes
        self._resizing = True
        self._set_size(min(size, before))  # from here on nobody begins to write past the new end
        try:
            if self._changing:
                self._still = Promise()
                await self._still
            await Blocking(partial(self._truncate, size))
        except BaseException:
            self._set_size(before)
            raise
        finally:
            self._resizing = False
        self._set_size(size)
        self._resized()

    def _truncate(self, size: int) -> None:
        try:
            os.ftruncate(self._fd, size)
        except OSError as error:
            raise self._failed(error, "resize") from error

    async def refresh(self) -> None:
        """Look at the file's size again."""
        size = self._file_size()
        if self._ragged:
            size += -size % self.sector_size
        if size >> self._shift != self.sector_count and not self._resizing:
            self._set_size(size)
            self._resized()

    def _file_size(self) -> int:
        try:
            return os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise self._failed(error, "refresh") from error

    def _set_size(self, size: int) -> None:
        self.sector_count = size >> self._shift
        self._bytes = self.sector_count << self._shift

    # -- what it holds ---------------------------------------------------------------------------

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """Holes and data, as the file system knows them."""
        self.check_range(sector, count)
        if not count:
            return []
        find: Blocking[list[Extent]] = Blocking(partial(self._find_extents, sector, sector + count))
        return await find

    def _find_extents(self, sector: int, end: int) -> list[Extent]:
        found: list[Extent] = []
        while sector < end and len(found) < MOST_EXTENTS:
            data = min(self._seek(sector, os.SEEK_DATA) >> self._shift, end)
            if data > sector:
                found.append(Extent(sector, data - sector, allocated=False, zero=True))
            if data < end:
                hole = min(-(-self._seek(data, os.SEEK_HOLE) >> self._shift), end)
                found.append(Extent(data, hole - data, allocated=True, zero=False))
            sector = found[-1].sector + found[-1].count
        return found

    def _seek(self, sector: int, whence: int) -> int:
        """Where the next data or the next hole begins, in bytes."""
        try:
            return os.lseek(self._fd, sector << self._shift, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is only a hole up to the end
                return MAX_BYTES
            if error.errno == errno.EINVAL:  # a block device: it cannot tell
                return sector << self._shift if whence == os.SEEK_DATA else MAX_BYTES
            raise self._failed(error, "find holes of") from error

    @property
    def allocated_bytes(self) -> int | None:
        """Bytes the file system holds for the file."""
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        """Close the file, which also drops its lock."""
        for fd in (self._fd, self._sync_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._sync_fd = -1

    def __del__(self) -> None:
        FdDisk.close(self)

    # -- errors ----------------------------------------------------------------------------------

    def _failed(self, error: OSError, what: str) -> DiskError:
        return from_os_error(error, f"{what} {self._name}")

    def _check_retry(self, error: OSError, what: str, buffers: Buffers, flags: int) -> None:
        """Raise unless a worker may do better: too many buffers for a call, or no NOWAIT here."""
        # f2fs answers EINVAL. The flags are never set with O_DIRECT, where it means misalignment.
        no_nowait = flags and error.errno in (*NOT_SUPPORTED, errno.EINVAL)
        if len(buffers) <= IOV_MAX and not no_nowait:
            raise self._failed(error, what) from error


def check_size(name: str, size: int, sector_size: int) -> None:
    """Raise `DiskOpenError` unless `size` bytes are a disk of such sectors."""
    if sector_size & (sector_size - 1) or not 512 <= sector_size <= MAX_SECTOR_SIZE:
        raise DiskOpenError(
            f"{name}: no disk has sectors of {sector_size} bytes",
            "a sector is a power of two from 512 to 65536 bytes",
        )
    if not 0 < size <= MAX_BYTES:
        raise DiskOpenError(f"{name}: no disk has {size} bytes")
    if rest := size % sector_size:
        raise DiskOpenError(
            f"{name}: {size} bytes are not a whole number of sectors of {sector_size}",
            f"the next size that is: {size + sector_size - rest}",
        )
