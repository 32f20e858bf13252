"""A layer in an SQLite database, and what was written to it since the last flush in memory.

A write goes to a batch in memory; a flush stores the batch in one transaction, and so does the
write that finds it full. A batch that could not be stored stays, and the next flush tries again:
nothing is lost by a disk that was full for a while.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Final

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.buffers import cut, gather, scatter, zero
from drivebay.disk.contract import MAX_BYTES, Buffers, Disk, Extent, Operation, Unmap, byte_length
from drivebay.disk.errors import (
    DiskError,
    DiskOpenError,
    IllegalBlock,
    InvalidInput,
    Medium,
    MediumError,
    ReadOnly,
)
from drivebay.disk.layers import sqlite_file
from drivebay.disk.layers.layer import CacheLayer
from drivebay.disk.layers.presence import Run, SectorSet
from drivebay.disk.layers.sqlite_file import Rows, SqliteFile
from drivebay.suspend import DONE, Blocking, Lock, run

__all__ = ["SqlLayer", "open_alone", "open_over"]

log = logging.getLogger(__name__)

FULL: Final = 32 << 20
"""Bytes of a batch that is stored unasked. There may be two batches."""
FULL_CACHE: Final = 4 << 20
PIECE: Final = 1 << 20
"""Bytes that are written to or read from a batch at once: it does not wait for that."""
PAGE: Final = 4096
MOST_BUFFERS: Final = 512


class _Batch:
    """What is to be stored: sectors with data, sectors of zeroes, sectors to forget.

    Nothing here waits, so that it can be handed over between any two calls.
    """

    def __init__(self, sector_count: int, sector_size: int) -> None:
        self._shift = sector_size.bit_length() - 1
        self._memory = RamDisk(sector_count << self._shift, sector_size=sector_size)
        self.data, self.zeroes, self.gone = SectorSet(), SectorSet(), SectorSet()
        self.size = 0
        """Bytes of memory it takes, or less."""

    def __bool__(self) -> bool:
        return bool(self.data or self.zeroes or self.gone)

    def write(self, sector: int, buffers: Buffers) -> None:
        """At most `PIECE` bytes. Raises `NoSpace` where there is no memory."""
        length = byte_length(buffers)
        if len(buffers) > MOST_BUFFERS:
            bounce = memoryview(bytearray(length))
            gather(buffers, bounce)
            buffers = [bounce]
        operation = self._memory.write(sector, buffers)
        if operation is not DONE:
            run(operation)  # memory does not wait: it raises
        self.size += max(length, PAGE)
        self._mark(self.data, sector, length >> self._shift)

    def zero(self, sector: int, count: int) -> None:
        self._mark(self.zeroes, sector, count)

    def forget(self, sector: int, count: int) -> None:
        self._mark(self.gone, sector, count)

    def _mark(self, as_one_of: SectorSet, sector: int, count: int) -> None:
        as_one_of.add(sector, count)
        for others in (self.data, self.zeroes, self.gone):
            if others is not as_one_of and others:
                others.remove(sector, count)

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Sectors that have data."""
        return self._memory.read(sector, buffers)

    def rows(self) -> Iterator[Rows]:
        """What is to be stored, but for what is to be forgotten."""
        for sector, count in self.zeroes.ranges():
            yield sector, count, None
        for sector, count in self.data.ranges():
            for start in range(sector, sector + count, PIECE >> self._shift):
                piece = min(PIECE >> self._shift, sector + count - start)
                data = memoryview(bytearray(piece << self._shift))
                run(self._memory.read(start, [data]))
                yield start, piece, data

    def is_full(self, limit: int) -> bool:
        """Whether it takes more than `limit` bytes of memory."""
        if self.size > limit:
            self.size = self._memory.allocated_bytes or 0  # what was written twice counts once
        return self.size > limit


class SqlLayer(CacheLayer):
    """The sectors in `file`, which it owns.

    `alone` says that nothing lies below: then sectors of zeroes need not be stored.

    Raises `DiskOpenError`.
    """

    kind = "sql"
    volatile_cache = True

    def __init__(self, file: SqliteFile, *, alone: bool = False) -> None:
        super().__init__()
        self.file = file
        self._alone = alone
        self.sector_size = self.physical_sector_size = file.sector_size
        self.sector_count = file.sector_count
        # A cache is "logically read-only": only `put` writes to it.
        self.read_only = file.read_only or file.logically_read_only
        self.unmap_behaviour = Unmap.ZEROES if alone else Unmap.UNSPECIFIED
        self._shift = self.sector_size.bit_length() - 1
        self._full = FULL_CACHE if file.is_cache else FULL
        self._held = file.load()
        self.runs = self._held.runs  # type: ignore[method-assign]
        # Newest first. The second is being stored, or could not be.
        self._batches = [] if file.read_only else [self._new_batch()]
        self._lock = Lock()  # the file's calls, one after the other

    def _new_batch(self) -> _Batch:
        return _Batch(self.sector_count, self.sector_size)

    def runs(self, sector: int, count: int) -> list[Run]:
        """What is in the file or is to be stored."""
        return self._held.runs(sector, count)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """From memory, or from the file. Raises `MediumError` for rows that are no sectors."""
        count = byte_length(buffers) >> self._shift
        if self._batches and count:
            runs = self._batches[0].data.runs(sector, count)
            if len(runs) == 1 and runs[0][2]:
                return self._batches[0].read(sector, buffers)
        return self._read(sector, count, buffers)

    async def _read(self, sector: int, count: int, buffers: Buffers) -> None:
        self.check_range(sector, count)
        for start, run_, source in list(self._sources(sector, count)):
            first = (start - sector) << self._shift
            part = cut(buffers, first, first + (run_ << self._shift))
            if source is None:
                zero(part)
            elif isinstance(source, _Batch):
                await source.read(start, part)  # a batch that was stored meanwhile is still right
            else:
                await self._read_rows(start, run_, part)

    def _sources(self, sector: int, count: int) -> Iterator[tuple[int, int, object]]:
        """Where each part of the range is: in a batch, nowhere (None), or in the file."""
        missing = []
        for start, run_, present in self._held.runs(sector, count) if count else ():
            if present:
                missing.append((start, run_))
            else:
                yield start, run_, None
        for batch in tuple(self._batches):
            asked, missing = missing, []
            for start, run_ in asked:
                for at, size, present in batch.data.runs(start, run_):
                    if present:
                        yield at, size, batch
                        continue
                    for zero_at, zero_size, is_zero in batch.zeroes.runs(at, size):
                        if is_zero:
                            yield zero_at, zero_size, None
                        else:
                            missing.append((zero_at, zero_size))
        for start, run_ in missing:
            yield start, run_, self.file

    async def _read_rows(self, sector: int, count: int, buffers: Buffers) -> None:
        async with self._lock:
            reading: Blocking[tuple[memoryview, list[int]]] = Blocking(
                partial(self.file.read, sector, count)
            )
            data, missing = await reading
        scatter(buffers, data)
        for number in missing if not self._alone else ():
            # One that was unmapped meanwhile may be zero; one that should be there may not.
            if self._held.runs(number, 1)[0][2] and not self._is_in_batch(number):
                raise MediumError(Medium.UNRECOVERED_READ, number)

    def _is_in_batch(self, sector: int) -> bool:
        return any(
            sectors.runs(sector, 1)[0][2]
            for batch in self._batches
            for sectors in (batch.data, batch.zeroes, batch.gone)
        )

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What is held, and which of it is zero."""
        self.check_range(sector, count)
        found: list[Extent] = []
        for start, run_, source in sorted(self._sources(sector, count), key=lambda part: part[0]):
            if source is not self.file:
                has_data = isinstance(source, _Batch)
                found.append(Extent(start, run_, allocated=has_data, zero=not has_data))
                continue
            async with self._lock:
                looking: Blocking[SectorSet] = Blocking(partial(self.file.zeroes, start, run_))
                zeroes = await looking
            for at, size, is_zero in zeroes.runs(start, run_):
                found.append(Extent(at, size, allocated=not is_zero, zero=is_zero))
        return found

    # -- writing ---------------------------------------------------------------------------------

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write to memory; with `fua`, flush. Raises `NoSpace` if memory and medium are full."""
        length = byte_length(buffers)
        self._check_change(sector, length >> self._shift)
        for first in range(0, length, PIECE):
            piece = buffers if length <= PIECE else cut(buffers, first, first + PIECE)
            await self._write(sector + (first >> self._shift), piece)
        if fua:
            await self.flush()

    async def _write(self, sector: int, buffers: Buffers) -> None:
        if self._batches[0].size > self._full:
            await self._relieve()
        count = byte_length(buffers) >> self._shift
        if sector + count > self.sector_count:  # it has shrunk while this waited
            raise IllegalBlock(sector, count, self.sector_count)
        self._batches[0].write(sector, buffers)
        self._held.add(sector, count)

    async def put(self, sector: int, buffers: Buffers) -> None:
        """Keep what is absent, in memory until there is enough to store."""
        self.check_range(sector, byte_length(buffers) >> self._shift)
        if not self._batches:
            raise ReadOnly(self.file.path)
        if self._batches[0].size > self._full:
            await self._relieve()
        for start, count, present in self._held.runs(sector, byte_length(buffers) >> self._shift):
            if not present:
                first = (start - sector) << self._shift
                self._batches[0].write(start, cut(buffers, first, first + (count << self._shift)))
                self._held.add(start, count)

    async def flush(self) -> None:
        """Store what was written. It is not lost where that fails: a later flush tries again."""
        if self._batches:
            async with self._lock:
                await self._store_all()

    async def _relieve(self) -> None:
        async with self._lock:
            if self._batches[0].is_full(self._full):
                await self._store_all()

    async def _store_all(self) -> None:
        """Store what there is now. Under the lock."""
        if len(self._batches) > 1:
            await self._store_last()
        if self._batches[0]:
            self._batches.insert(0, self._new_batch())
            await self._store_last()

    async def _store_last(self, sector_count: int | None = None) -> None:
        batch = self._batches[-1]
        await Blocking(
            lambda: self.file.store(
                batch.gone.ranges(),
                batch.rows(),
                keep_zeroes=not self._alone,
                sector_count=sector_count,
            )
        )
        self._batches.pop()  # a read under way may still use it: it closes itself

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """Drop the sectors where below is zero; else those that are held read zero."""
        self._check_change(sector, count)
        if not count:
            return
        if next_is_zero or self._alone:
            self._drop(sector, count)
            return
        for start, run_, present in self._held.runs(sector, count):
            if present:
                self._batches[0].zero(start, run_)

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """Drop the sectors where below is zero; else hold them as zeroes, a small row for each."""
        self._check_change(sector, count)
        if count and (next_is_zero or self._alone):
            self._drop(sector, count)
        elif count:
            self._batches[0].zero(sector, count)
            self._held.add(sector, count)
        if fua:
            await self.flush()

    def _drop(self, sector: int, count: int) -> None:
        for start, run_, present in self._held.runs(sector, count):
            if present:
                self._batches[0].forget(start, run_)
        self._held.remove(sector, count)

    def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self.file.path)

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Store the new size, and all that was written. What a shrink cuts off is deleted."""
        if self.read_only:
            raise ReadOnly(self.file.path)
        if not 0 < sector_count <= MAX_BYTES >> self._shift:
            raise InvalidInput(f"{self.file.path}: cannot have {sector_count} sectors")
        async with self._lock:
            await self._store_all()
            before = self.sector_count
            self._batches.insert(0, _Batch(max(before, sector_count), self.sector_size))
            self.sector_count = min(before, sector_count)  # nobody begins to write past the new end
            try:
                await self._store_last(sector_count)
            except BaseException:
                self.sector_count = before
                raise
            self._held.remove_from(sector_count)
            self.sector_count = sector_count
        self._resized()

    # -- the rest --------------------------------------------------------------------------------

    @property
    def details(self) -> dict[str, str | int | bool]:
        """The path, and SQLite's version."""
        return {"path": self.file.path, "sqlite": sqlite3.sqlite_version}

    @property
    def allocated_bytes(self) -> int:
        """What the file and its log take."""
        return self.file.allocated_bytes

    def close(self) -> None:
        """Store what was written, flushed or not, and close the file."""
        while self._batches:
            batch = self._batches.pop()
            try:
                if batch:
                    self.file.store(batch.gone.ranges(), batch.rows(), keep_zeroes=not self._alone)
            except DiskError as error:
                log.warning("%s: what was not flushed is lost: %s", self.file.path, error)
        self.file.close()


def open_alone(
    path: str, create_size: int | None, sector_size: int | None, *, read_only: bool
) -> SqlLayer:
    """The file at `path` with nothing below it; made with `create_size` bytes if it is missing.

    One that exists must have this size and these sectors, where they are given.

    Raises `DiskOpenError`.
    """
    if create_size is not None and not os.path.exists(path):
        size = sector_size or 512
        sqlite_file.create(path, create_size // size, size)
    file = SqliteFile(path, "read" if read_only else "alone")
    found = file.sector_count * file.sector_size
    wrong = ""
    if create_size not in (None, found):
        wrong = f"has {found} bytes, not the {create_size} that create= asks for"
    elif sector_size not in (None, file.sector_size):
        wrong = f"has sectors of {file.sector_size} bytes, not of {sector_size}"
    if wrong:
        file.close()
        raise DiskOpenError(f"{path}: {wrong}", "leave out the options to use it as it is")
    return _layer(file, alone=True)


def open_over(path: str, below: Disk, *, create: bool, read_only: bool) -> SqlLayer:
    """The file at `path` for a layer over `below`; with `create` it is made if it is missing.

    Raises `DiskOpenError`.
    """
    if create and not os.path.exists(path):
        sqlite_file.create(path, below.sector_count, below.sector_size)
    return _layer(SqliteFile(path, "read" if read_only else "alone"))


def _layer(file: SqliteFile, alone: bool = False) -> SqlLayer:
    try:
        return SqlLayer(file, alone=alone)
    except BaseException:
        file.close()
        raise
