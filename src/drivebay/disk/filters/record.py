"""A disk whose writes are logged, in the format of Linux's dm-log-writes.

The format is described in the kernel's admin-guide/device-mapper/log-writes.rst and declared in
drivers/md/dm-log-writes.c; replay-log of josefbacik/log-writes and others read it. All numbers
count sectors of the disk's own size, which the superblock names. What is ours is at the end of an
entry's sector, where theirs is empty: when the operation began and ended.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from drivebay.disk.contract import Buffers, Disk
from drivebay.disk.errors import DiskOpenError, InvalidInput, from_os_error
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Lock, blocking
from drivebay.wire import U32, U64, Bit, Register64, Struct

__all__ = [
    "MAGIC",
    "TIMED",
    "VERSION",
    "LogWriteEntry",
    "LogWriteFlags",
    "LogWriteSuper",
    "LogWriteTimes",
    "Record",
]

log = logging.getLogger(__name__)

MAGIC: Final = 0x6A736677736872
VERSION: Final = 1
MOST_HELD: Final = 64 << 20
END_MARK: Final = b"dm-log-writes-end"
TIMED: Final = int.from_bytes(b"drivebay", "little")


class LogWriteSuper(Struct, size=28):
    """The first sector of a log."""

    magic: U64
    version: U64
    nr_entries: U64
    sectorsize: U32


class LogWriteEntry(Struct, size=32):
    """The beginning of an entry's own sector; `nr_sectors` of data follow it, or none."""

    sector: U64
    nr_sectors: U64
    flags: U64
    data_len: U64


class LogWriteTimes(Struct, size=24):
    """The end of an entry's sector: what began or ended before the operation did, and then itself.

    `magic` is TIMED.
    """

    magic: U64
    began: U64
    ended: U64


class LogWriteFlags(Register64):
    """What an entry is, besides a write."""

    MARK = Bit(3)
    DISCARD = Bit(2)
    FUA = Bit(1)
    FLUSH = Bit(0)


class _Entry(NamedTuple):
    began: int
    ended: int
    sector: int = 0
    length: int = 0
    flags: int = 0
    data: bytes = b""
    """Of a write that is not of zeroes: what was written; of a mark: its text."""

    @property
    def has_data(self) -> bool:
        return not self.flags & (LogWriteFlags.DISCARD | LogWriteFlags.MARK)


class Record(Filter):
    """Logs what changes `below` to a new file `path`.

    A write is logged when a flush that covers it has completed, in the order in which the writes
    completed; one with FUA is logged as it completes, before those that no flush covers yet, but
    for what it overwrites. So every beginning of the log is what a power cut may have left; with
    the times in it `drivebay.lab.powercut` finds all the rest. Up to 64 MiB wait for a flush; what
    is more is logged without one, the oldest first. The guest sees a write cache, whether `below`
    has one or not. Raises `DiskOpenError`.
    """

    kind = "record"

    def __init__(self, below: Disk, path: str) -> None:
        super().__init__(below)
        self.volatile_cache = True  # a guest that saw none would not flush
        self.path = path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o644)
        except OSError as error:
            raise DiskOpenError(
                f"{path}: {error.strerror}", "a recording is a new file: name one that is not there"
            ) from error
        self._lock = Lock()
        self._moment = 0
        self._entries = 0
        self._end = self.sector_size
        self._done: list[_Entry] = []  # completed, not known to be stable
        self._held = 0
        self._ready: list[_Entry] = []
        self._failure: OSError | None = None
        try:
            self._append([])
        except OSError as error:
            os.close(self._fd)
            raise DiskOpenError(f"{path}: {error.strerror}") from error

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Where it is recorded."""
        return {"log": self.path}

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write what the buffers hold now, and log it."""
        began = self._begin()
        data = b"".join(buffers)
        await self.below.write(sector, [memoryview(data)], fua)
        count = len(data) // self.sector_size
        await self._completed(_Entry(began, self._tick(), sector, count, 0, data), fua)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero, and log a write of zeroes: a hole in the log."""
        began = self._begin()
        await self.below.write_zeroes(sector, count, fua, unmap)
        await self._completed(_Entry(began, self._tick(), sector, count), fua)

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap, and log a discard."""
        began = self._begin()
        await self.below.unmap(sector, count)
        entry = _Entry(began, self._tick(), sector, count, LogWriteFlags.DISCARD)
        await self._completed(entry, fua=False)

    async def flush(self) -> None:
        """Flush, and log what it has made stable."""
        began = self._tick()
        await self.below.flush()
        ended = self._tick()
        covered = self._take(lambda entry: entry.ended < began)
        await self._log([*covered, _Entry(began, ended, flags=LogWriteFlags.FLUSH)])

    async def mark(self, text: bytes) -> None:
        """Log a mark after all that is logged so far; replay tools find it by `text`.

        Raises `InvalidInput` if it is too long: it stands in the entry's sector.
        """
        if len(text) > self.most_marked:
            raise InvalidInput(f"a mark of {len(text)} bytes")
        await self._log([self._mark(text)])

    @property
    def most_marked(self) -> int:
        """Bytes that a mark can have."""
        return self.sector_size - LogWriteEntry.size - LogWriteTimes.size

    def _mark(self, text: bytes) -> _Entry:
        moment = self._tick()
        return _Entry(moment, moment, flags=LogWriteFlags.MARK, data=text)

    def _begin(self) -> int:
        self._check()
        return self._tick()

    def _tick(self) -> int:
        self._moment += 1
        return self._moment

    def _take(self, wanted: Callable[[_Entry], bool]) -> list[_Entry]:
        """Those of the completed ones, which wait for a flush no longer."""
        taken = [entry for entry in self._done if wanted(entry)]
        self._done = [entry for entry in self._done if not wanted(entry)] if taken else self._done
        self._held -= sum(len(entry.data) for entry in taken)
        return taken

    async def _completed(self, entry: _Entry, fua: bool) -> None:
        if not entry.length:
            return
        if fua:
            start, end = entry.sector, entry.sector + entry.length
            # Replayed after it, they would hide it.
            hidden = self._take(lambda old: old.sector < end and old.sector + old.length > start)
            await self._log([*hidden, entry._replace(flags=LogWriteFlags.FUA)])
            return
        self._done.append(entry)
        self._held += len(entry.data)
        if self._held > MOST_HELD:
            await self._log(self._take(lambda _: True))

    async def _log(self, entries: Sequence[_Entry]) -> None:
        """Log them. A log with a gap would be a lie: where one cannot be written, none is again."""
        self._ready += entries
        async with self._lock:
            if self._failure is None and self._ready:
                ready = tuple(self._ready)
                try:
                    await blocking(lambda: self._append(ready))
                except OSError as error:
                    self._failure = error
                del self._ready[: len(ready)]
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            self._ready.clear()
            raise from_os_error(self._failure, f"record to {self.path}")

    def _append(self, entries: Sequence[_Entry]) -> None:
        """Write entries, then the superblock that counts them."""
        size, end = self.sector_size, self._end
        for entry in entries:
            mark = entry.data if entry.flags & LogWriteFlags.MARK else b""
            head = LogWriteEntry(entry.sector, entry.length, int(entry.flags), len(mark)).pack()
            times = LogWriteTimes(TIMED, entry.began, entry.ended).pack()
            self._write((head + mark).ljust(size - len(times), b"\0") + times, end)
            end += size
            if entry.has_data:
                self._write(entry.data, end)
                end += entry.length * size
        os.ftruncate(self._fd, end)  # zeroes at the end are a hole, too
        total = self._entries + len(entries)
        self._write(LogWriteSuper(MAGIC, VERSION, total, size).pack().ljust(size, b"\0"), 0)
        self._end, self._entries = end, total

    def _write(self, data: bytes, offset: int) -> None:
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[written:], offset + written

    def close(self) -> None:
        """Log what no flush has covered, and close the log and the disk below."""
        try:
            if self._failure is None:
                self._append([*self._ready, *self._done, self._mark(END_MARK)])
        except OSError as error:
            log.error("record to %s: %s: it ends too early", self.path, error.strerror)
        finally:
            os.close(self._fd)
            super().close()
