"""A log of writes as a history: ours, and what dm-log-writes and QEMU's blklogwrites keep.

Ours say when each operation began and ended (`LogWriteTimes`). Of others it is supposed that each
ended before the next began, which is what their order says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.filters.record import (
    END_MARK,
    MAGIC,
    TIMED,
    VERSION,
    LogWriteEntry,
    LogWriteFlags,
    LogWriteSuper,
    LogWriteTimes,
)
from drivebay.testing.history import Change, Flush, History, Mark

__all__ = ["Log"]

SECTOR_SIZES: Final = tuple(1 << shift for shift in range(9, 17))


@dataclass(frozen=True, slots=True)
class _InLog:
    """What was written, in the log's file from byte `at` on."""

    fd: int
    at: int

    def fill(self, start: int, into: memoryview) -> None:
        at = self.at + start
        while into:
            count = os.preadv(self.fd, [into], at)
            if not count:
                raise DiskOpenError("the log has become shorter while it was read")
            into, at = into[count:], at + count


class Log:
    """The log in the file or block device `path`, open while its `history` is used.

    `history` is that of a disk of `size` bytes. Raises `DiskOpenError` for what is no log of it.
    """

    def __init__(self, path: str, size: int, atom: int) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DiskOpenError(f"{path}: {error.strerror}") from error
        try:
            self._read(size, atom)
        except BaseException:
            os.close(self._fd)
            raise

    def _read(self, size: int, atom: int) -> None:
        length = os.lseek(self._fd, 0, os.SEEK_END)
        found = os.pread(self._fd, LogWriteSuper.size, 0)
        head = LogWriteSuper.unpack(found.ljust(LogWriteSuper.size, b"\0"))
        if head.magic != MAGIC or head.version != VERSION or head.sectorsize not in SECTOR_SIZES:
            raise DiskOpenError(f"{self.path}: no log of writes", "record:FILE:DISK makes one")
        self.sector_size = head.sectorsize
        self.history = History(size, atom)
        at, changes = head.sectorsize, list[Change]()
        for number in range(head.nr_entries):
            if at + self.sector_size > length:
                raise self._error(number, "the log ends")
            text = os.pread(self._fd, self.sector_size, at)
            at += self.sector_size
            at += self._take(number, text, at, length, changes)
        # Logged when they were stable: now by when they began.
        changes.sort(key=lambda change: change.began)
        for number, change in enumerate(changes, 1):
            change.number = number
        self.history.changes = changes

    def _take(self, number: int, text: bytes, at: int, length: int, changes: list[Change]) -> int:
        """Take an entry; the bytes of its data, which begin at `at`."""
        entry, history = LogWriteEntry.unpack(text), self.history
        flags = LogWriteFlags(entry.flags)
        times = LogWriteTimes.unpack(text, self.sector_size - LogWriteTimes.size)
        timed = times.magic == TIMED and 0 < times.began <= times.ended < 1 << 63
        if flags.MARK:
            moment = times.ended if timed else history.tick()
            history.moment = max(history.moment, moment)
            said = text[LogWriteEntry.size :][: entry.data_len]
            if said != END_MARK:
                history.marks.append(Mark(moment, said))
            return 0
        if flags.FLUSH:  # before the data, if it has some
            began, ended = (times.began, times.ended) if timed else (history.tick(), history.tick())
            history.moment = max(history.moment, ended)
            history.flushes.append(Flush(began, ended))
            if not entry.nr_sectors:
                return 0
        offset, count = entry.sector * self.sector_size, entry.nr_sectors * self.sector_size
        if offset + count > history.size:
            raise self._error(
                number, f"{offset + count} bytes are changed of a disk of {history.size}"
            )
        held = 0 if flags.DISCARD else count
        if at + held > length:
            raise self._error(number, "the log ends")
        began, ended = (times.began, times.ended) if timed else (history.tick(), history.tick())
        history.moment = max(history.moment, ended)
        data = _InLog(self._fd, at) if held else None
        changes.append(Change(0, began, offset, count, data, bool(flags.FUA), ended))
        return held

    def _error(self, number: int, what: str) -> DiskOpenError:
        return DiskOpenError(
            f"{self.path}: entry {number}: {what}", "is it the log of this disk, and whole?"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
