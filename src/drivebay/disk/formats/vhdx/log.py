"""The log of a VHDX image: pages of the file that become what they should all at once, or not at
all ([MS-VHDX] 2.3).

An entry is a header and descriptors in pages of their own, then a page of data for each data
descriptor. Entries follow each other around the log's region. Those from the tail of the last whole
entry up to that one are the active sequence, and are written to the file again when it is opened
after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.vhdx.structs import (
    PAGE,
    REGIONS_AT,
    DataDescriptor,
    DataSector,
    LogEntry,
    ZeroDescriptor,
    is_sealed,
    seal,
)

if TYPE_CHECKING:
    from drivebay.disk.formats.store import Store
    from drivebay.disk.formats.vhdx.headers import Region

__all__ = ["MOST_PAGES", "Log", "Replay", "find_replay"]

MOST_PAGES: Final = (PAGE - LogEntry.size) // DataDescriptor.size
"""Pages an entry of ours changes at most: its descriptors fit one page."""
CHUNK: Final = 1 << 20
MOST_FILE: Final = 1 << 47
"""No entry makes the file larger: twice the largest disk."""
PATIENCE: Final = 4
"""Times the log's length that is read to find out which of its entries are whole."""
HALF: Final = 1 << 32


class Log:
    """Writes entries, each of which replaces the one before.

    When an entry is appended, all that earlier ones said must be stable in the file itself.
    """

    def __init__(self, store: Store, region: Region) -> None:
        self.guid = os.urandom(16)
        self._store, self._region = store, region
        self._position = 0
        self._sequence = 0

    async def append(self, pages: Sequence[tuple[int, bytes]], size: int) -> None:
        """Log that each page at an offset of the file has this content; at most `MOST_PAGES`.

        `size` is what the file has at least, stably. The entry is stable when this returns.
        """
        entry = self._entry(self._sequence + 1, pages, size)
        room = self._region.length - self._position
        start = self._region.offset + self._position
        await self._store.write(start, [memoryview(entry)[:room]])
        if room < len(entry):
            await self._store.write(self._region.offset, [memoryview(entry)[room:]])
        await self._store.flush()
        self._position = (self._position + len(entry)) % self._region.length
        self._sequence += 1

    def _entry(self, number: int, pages: Sequence[tuple[int, bytes]], size: int) -> bytes:
        header = LogEntry(
            b"loge",
            0,
            PAGE * (1 + len(pages)),
            self._position,
            number,
            len(pages),
            0,
            self.guid,
            size,
            size,
        )
        head, sectors = header.pack(), []
        for offset, page in pages:
            head += DataDescriptor(b"desc", page[-4:], page[:8], offset, number).pack()
            sectors.append(DataSector(b"data", number // HALF, page[8:-4], number % HALF).pack())
        return seal(b"".join([head.ljust(PAGE, b"\0"), *sectors]))


@dataclass(frozen=True)
class _Found:
    """What may be an entry; its checksum has not been looked at."""

    position: int
    header: LogEntry


class Replay:
    """The active sequence: its entries, oldest first."""

    def __init__(self, entries: Sequence[bytes], log: Region) -> None:
        self._entries = entries
        self._log = log
        last = LogEntry.unpack(entries[-1])
        self.flushed_size = last.flushed_file_offset
        """The file had this size at least, stably: one that is shorter was truncated."""
        self.size = max(LogEntry.unpack(entry).last_file_offset for entry in entries)
        """The size that the file should have."""

    async def apply(self, store: Store) -> None:
        """Write what the entries say. Raises `DiskOpenError` where that cannot be."""
        before = store.size
        if before < self.flushed_size or self.size > MOST_FILE:
            raise DiskOpenError(
                f"vhdx: the log speaks of {max(self.flushed_size, self.size)} bytes, the image has "
                f"{before}",
                "the image is truncated",
            )
        # All of it makes sense before any of it is written.
        changes = [change for entry in self._entries for change in self._changes(entry, before)]
        await store.grow(self.size)
        for offset, page, length in changes:
            if page:
                await store.write(offset, [memoryview(page)])
            else:
                await store.write_zeroes(offset, length, unmap=True)
        await store.flush()

    def _changes(self, entry: bytes, before: int) -> Iterator[tuple[int, bytes, int]]:
        """What the entry changes: offset, and a page or how many bytes become zero."""
        header = LogEntry.unpack(entry)
        at = _data_start(header)
        for place in _descriptor_places(header):
            if entry[place : place + 4] == b"zero":
                zero = ZeroDescriptor.unpack(entry, place)
                self._check(zero.file_offset, zero.zero_length, max(self.size, before))
                # What the file has just gained is zero already.
                length = min(zero.zero_length, before - zero.file_offset)
                if length > 0:
                    yield zero.file_offset, b"", length
            else:
                data = DataDescriptor.unpack(entry, place)
                self._check(data.file_offset, PAGE, max(self.size, before))
                sector = DataSector.unpack(entry, at)
                page = data.leading_bytes + sector.data + data.trailing_bytes
                yield data.file_offset, page, PAGE
                at += PAGE

    def _check(self, offset: int, length: int, size: int) -> None:
        end, log = offset + length, self._log
        on_log = offset < log.end and log.offset < end
        if (offset | length) % PAGE or offset < REGIONS_AT[0] or end > size or on_log:
            raise DiskOpenError(f"vhdx: the log changes {length} bytes at {offset}")


async def find_replay(store: Store, log: Region, guid: bytes) -> Replay:
    """The active sequence of the entries with this GUID (2.3.3).

    Raises `DiskOpenError` where there is none, and `DiskError`.
    """
    reader = _Reader(store, log)
    found = await reader.scan(guid)
    for head in sorted(found.values(), key=lambda entry: entry.header.sequence_number)[::-1]:
        chain = _chain(found, head, log.length)
        entries = [await reader.whole(entry) for entry in chain]
        if entries and None not in entries:
            return Replay([entry for entry in entries if entry is not None], log)
    raise DiskOpenError("vhdx: no entry of the log is whole", "the image is damaged")


def _chain(found: dict[int, _Found], head: _Found, length: int) -> list[_Found]:
    """The entries from the tail of `head` to itself, or none if they do not lead to it."""
    chain: list[_Found] = []
    position = head.header.tail
    while position in found and len(chain) <= len(found):
        chain.append(found[position])
        if position == head.position:
            numbers = [entry.header.sequence_number for entry in chain]
            return chain if all(b - a == 1 for a, b in pairwise(numbers)) else []
        position = (position + chain[-1].header.entry_length) % length
    return []


class _Reader:
    """Reads entries, which may go around the end of the log."""

    def __init__(self, store: Store, log: Region) -> None:
        self._store, self._log = store, log
        self._whole: dict[int, bytes | None] = {}
        self._left = PATIENCE * log.length

    async def scan(self, guid: bytes) -> dict[int, _Found]:
        """What looks like entries with this GUID, by position."""
        found = {}
        for start in range(0, self._log.length, CHUNK):
            data = await self._store.read(self._log.offset + start, CHUNK)
            at = data.find(b"loge")
            while at >= 0:
                if at % PAGE == 0:
                    header = LogEntry.unpack(data, at)
                    if header.log_guid == guid and _is_possible(header, self._log.length):
                        found[start + at] = _Found(start + at, header)
                at = data.find(b"loge", at + 4)
        return found

    async def whole(self, entry: _Found) -> bytes | None:
        """The entry, if it is whole."""
        if entry.position not in self._whole:
            length = entry.header.entry_length
            self._left -= length
            if self._left < 0:  # entries do not lie on each other
                raise DiskOpenError("vhdx: the log makes no sense", "the image is damaged")
            data = await self._read(entry.position, length)
            self._whole[entry.position] = data if _is_whole(entry.header, data) else None
        return self._whole[entry.position]

    async def _read(self, position: int, length: int) -> bytes:
        room = self._log.length - position
        data = await self._store.read(self._log.offset + position, min(length, room))
        return data + await self._store.read(self._log.offset, max(0, length - room))


def _is_possible(header: LogEntry, log_length: int) -> bool:
    """Whether the numbers of the header fit each other."""
    length, tail = header.entry_length, header.tail
    return (
        length % PAGE == 0
        and _data_start(header) <= length <= log_length
        and tail % PAGE == 0
        and tail < log_length
        and header.sequence_number > 0
    )


def _is_whole(header: LogEntry, entry: bytes) -> bool:
    """Whether checksum, descriptors and data belong to each other."""
    number, at = header.sequence_number, _data_start(header)
    for place in _descriptor_places(header):
        signature = entry[place : place + 4]
        if ZeroDescriptor.unpack(entry, place).sequence_number != number:
            return False
        if signature == b"desc":
            if at + PAGE > len(entry):
                return False
            sector = DataSector.unpack(entry, at)
            halves = sector.sequence_high * HALF + sector.sequence_low
            if sector.signature != b"data" or halves != number:
                return False
            at += PAGE
        elif signature != b"zero":
            return False
    return at == len(entry) and is_sealed(entry)


def _data_start(header: LogEntry) -> int:
    """Where in the entry the data begin, after whole pages of descriptors."""
    size = LogEntry.size + header.descriptor_count * DataDescriptor.size
    return -(-size // PAGE) * PAGE


def _descriptor_places(header: LogEntry) -> range:
    size = DataDescriptor.size
    return range(LogEntry.size, LogEntry.size + header.descriptor_count * size, size)
