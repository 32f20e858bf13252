"""A disk in an object: something far away that is read by ranges and never written.

Every range is a request to a server. Large reads are cut into parts that are fetched side by side;
who reads on where he ended gets the next parts ahead. What was fetched is copied when it is there,
so that an operation which was given up leaves its buffers alone.
"""

from __future__ import annotations

import errno
import hashlib
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, Protocol

from drivebay.disk.buffers import cut, scatter
from drivebay.disk.contract import MAX_BYTES, Buffers, Disk, byte_length
from drivebay.disk.errors import DiskOpenError, IoError, ReadOnly
from drivebay.suspend import Promise

__all__ = ["CONNECTIONS", "BlobDisk", "Source", "changed"]

PART: Final = 1 << 20
"""Bytes that one request fetches at most."""
CONNECTIONS: Final = 8
AHEAD: Final = 4
"""Parts that are fetched ahead."""
KEPT: Final = 8
"""Parts that are kept for a reader who reads on."""
IN_A_ROW: Final = 2
"""Reads that go on where the last ended, until parts are fetched ahead."""


class Source(Protocol):
    """The bytes of one object as they were when it was opened. Any thread may call its methods."""

    name: str
    """What errors call it; without what a URL may hold of secrets."""
    size: int
    """Bytes."""
    pinned: str
    """By what a change is noticed: ``etag``, ``date`` or, where there is no better, ``size``."""
    version: str
    """That itself."""

    def read(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes that are there. Blocks. Raises `DiskError`."""

    def close(self) -> None:
        """Let go of connections; reads under way fail."""


def changed(name: str) -> IoError:
    """The error for an object that is no longer what was opened."""
    return IoError(errno.ESTALE, f"{name}: the object was changed")


class BlobDisk(Disk):
    """The first `size` bytes of `source`, all unless said; it owns the source.

    Its id is another when the object was changed, so that nobody takes what he kept of the old one
    for the new; `image_id` goes into it.

    Raises `DiskOpenError` if they are no whole number of sectors.
    """

    kind = "blob"
    physical_sector_size = 4096
    read_only = True
    volatile_cache = False

    def __init__(self, source: Source, size: int | None = None, image_id: bytes = b"") -> None:
        super().__init__()
        self._source = source
        size = source.size if size is None else size
        if size % self.sector_size or not 0 < size <= min(source.size, MAX_BYTES):
            raise DiskOpenError(
                f"{source.name}: {size} bytes are no whole number of sectors of {self.sector_size}"
            )
        self.sector_count = size // self.sector_size
        version = f"{source.name}\0{source.version}\0".encode()
        self.disk_id = hashlib.sha256(version + image_id).digest()[:16]
        self._threads = ThreadPoolExecutor(CONNECTIONS, "drivebay-blob")
        self._parts: OrderedDict[int, Future[memoryview]] = OrderedDict()  # oldest first
        self._next = -1  # the byte where the last read ended
        self._in_a_row = 0

    # -- reading ---------------------------------------------------------------------------------

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Fill `buffers`. Raises `IoError`: ESTALE when the object is no longer the same."""
        length = byte_length(buffers)
        self.check_range(sector, length // self.sector_size)
        start = sector * self.sector_size
        end = start + length
        for at, fetched in self._fetch(start, end) if length else ():
            data = await _result(fetched)
            first, last = max(at, start), min(at + len(data), end)
            scatter(cut(buffers, first - start, last - start), data[first - at : last - at])

    def _fetch(self, start: int, end: int) -> list[tuple[int, Future[memoryview]]]:
        """Where each part begins that the range is made of, and the part."""
        self._in_a_row = self._in_a_row + 1 if start == self._next else 0
        self._next = end
        reads_on = self._in_a_row >= IN_A_ROW
        parts = range(start // PART, -(-end // PART))
        if not reads_on and not all(number in self._parts for number in parts):
            return [(at, self._begin(at, min(PART, end - at))) for at in range(start, end, PART)]
        found = [(number * PART, self._part(number)) for number in parts]
        if reads_on:
            for number in range(parts.stop, min(parts.stop + AHEAD, -(-self.byte_count // PART))):
                self._part(number)
        return found

    def _part(self, number: int) -> Future[memoryview]:
        """Part `number`, one that was fetched or is on its way unless that failed."""
        part = self._parts.pop(number, None)
        if part is None or (part.done() and (part.cancelled() or part.exception())):
            at = number * PART
            part = self._begin(at, min(PART, self.byte_count - at))
        self._parts[number] = part
        while len(self._parts) > KEPT:
            self._parts.popitem(last=False)
        return part

    def _begin(self, offset: int, length: int) -> Future[memoryview]:
        return self._threads.submit(partial(self._source.read, offset, length))

    # -- the rest --------------------------------------------------------------------------------

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Raises `ReadOnly`."""
        self._refuse(sector, byte_length(buffers) // self.sector_size)

    async def unmap(self, sector: int, count: int) -> None:
        """Raises `ReadOnly`."""
        self._refuse(sector, count)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Raises `ReadOnly`."""
        self._refuse(sector, count)

    def _refuse(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        raise ReadOnly(self._source.name)

    async def flush(self) -> None:
        """There is nothing to flush."""

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Where the object is, and by what a change would be noticed."""
        return {"url": self._source.name, "pinned": self._source.pinned}

    def close(self) -> None:
        """Close the connections; what is under way fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._source.close()


async def _result(future: Future[memoryview]) -> memoryview:
    if not future.done():
        promise: Promise[None] = Promise()
        future.add_done_callback(lambda _: promise.give(None))
        await promise
    if future.cancelled():
        raise IoError(errno.ESHUTDOWN, "read")
    return future.result()
