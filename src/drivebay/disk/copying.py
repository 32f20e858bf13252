"""Copying and comparing whole disks: several pieces in flight, and no zeroes where it can be."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count, groupby
from typing import Final, NamedTuple

from drivebay.disk.buffers import aligned
from drivebay.disk.contract import Disk, Extent
from drivebay.disk.errors import InvalidInput
from drivebay.disk.formats.store import Store
from drivebay.suspend import Lock, together

__all__ = ["Progress", "compare", "copy", "extents"]

PIECE: Final = 1 << 20
IN_FLIGHT: Final = 8
GRAIN: Final = 1 << 16
"""Bytes of zeroes that are worth a hole."""
MOST_ZEROED: Final = 1 << 30
"""Bytes that are zeroed by one operation, so that progress is seen."""
ZERO: Final = bytearray(GRAIN)  # compares by memcmp, which a memoryview does not

Progress = Callable[[int], None]
"""Told the bytes that are done, one call after another."""


class _Piece(NamedTuple):
    offset: int
    length: int
    zero: bool


class _Pieces:
    """Cuts the bytes from `start` to `end` of some disks into pieces that are all zero, or not
    known to be.

    Pieces begin and end where a sector of `unit` bytes does.
    """

    def __init__(self, disks: Sequence[Disk], start: int, end: int, unit: int) -> None:
        self._disks, self._at, self._end, self._unit = disks, start, end, unit
        self._known: list[deque[Extent]] = [deque() for _ in disks]
        self._turn = Lock()

    async def next(self) -> _Piece | None:
        """The next piece; None at the end."""
        async with self._turn:
            at = self._at
            if at >= self._end:
                return None
            ends = [await self._zero_until(number) for number in range(len(self._disks))]
            until = min(ends) // self._unit * self._unit if min(ends) < self._end else self._end
            if until > at:
                piece = _Piece(at, min(until - at, MOST_ZEROED), zero=True)
            else:
                length = max(min(PIECE, self._data_until() - at), self._unit)
                piece = _Piece(at, min(length, self._end - at), zero=False)
            self._at += piece.length
            return piece

    async def _zero_until(self, number: int) -> int:
        """Where the zeroes end that begin here on one of the disks; here, if there are none."""
        disk, known = self._disks[number], self._known[number]
        size, until = disk.sector_size, self._at
        while known and (known[0].sector + known[0].count) * size <= until:
            known.popleft()
        for index in count():
            if until >= min(self._end, self._at + MOST_ZEROED):
                break
            if index == len(known):
                first = until // size
                known.extend(await disk.extents(first, -(-self._end // size) - first))
            if not known[index].zero:
                break
            until = (known[index].sector + known[index].count) * size
        return min(until, self._end)

    def _data_until(self) -> int:
        """Where the next zeroes may begin."""
        ends = []
        for disk, known in zip(self._disks, self._known, strict=True):
            end = (known[0].sector + known[0].count) * disk.sector_size if known else self._end
            ends.append(-(-end // self._unit) * self._unit)
        return max(ends)


async def copy(source: Disk, target: Disk, progress: Progress, *, blank: bool) -> None:
    """Make `target` read as `source` does, up to the end of `source`, and flush it.

    A `blank` target reads zero so far: zeroes are left out. Raises `InvalidInput` if it does not
    fit, and any `DiskError`.
    """
    end = source.byte_count
    if end > target.byte_count or end % target.sector_size:
        raise InvalidInput(
            f"{end} bytes do not fit on {target.byte_count} in sectors of {target.sector_size}"
        )
    pieces = _Pieces([source], 0, end, max(source.sector_size, target.sector_size))
    shift = target.sector_size.bit_length() - 1

    async def zero(offset: int, length: int) -> None:
        if not blank:
            await target.write_zeroes(offset >> shift, length >> shift, unmap=True)

    async def work() -> None:
        memory = aligned(PIECE)
        while piece := await pieces.next():
            if piece.zero:
                await zero(piece.offset, piece.length)
            else:
                data = memory[: piece.length]
                await source.read(piece.offset // source.sector_size, [data])
                for start, stop, empty in _runs(data):
                    if empty:
                        await zero(piece.offset + start, stop - start)
                    else:
                        await target.write((piece.offset + start) >> shift, [data[start:stop]])
            progress(piece.length)

    await together(work() for _ in range(IN_FLIGHT))
    await target.flush()


def _runs(data: memoryview) -> list[tuple[int, int, bool]]:
    """Where grains that are zero, and others, begin and end."""
    grains = range(0, len(data), GRAIN)
    runs = []
    for empty, group in groupby(grains, lambda at: _is_zero(data[at : at + GRAIN])):
        starts = list(group)
        runs.append((starts[0], min(starts[-1] + GRAIN, len(data)), empty))
    return runs


def _is_zero(data: memoryview) -> bool:
    return (ZERO if len(data) == GRAIN else bytearray(len(data))) == data


async def compare(one: Disk, two: Disk, progress: Progress) -> int | None:
    """The first byte that differs, where what is past the end of one counts as zero; None if there
    is none. Raises any `DiskError`.
    """
    shared = min(one.byte_count, two.byte_count)
    longer = one if one.byte_count > shared else two
    found: list[int] = []
    await _differences([one, two], 0, shared, found, progress)
    if not found:
        await _differences([longer], shared, longer.byte_count, found, progress)
    return min(found, default=None)


async def _differences(
    disks: Sequence[Disk], start: int, end: int, found: list[int], progress: Progress
) -> None:
    """Add to `found` where the disks differ from each other, or one alone from zero."""
    pieces = _Pieces(disks, start, end, max(disk.sector_size for disk in disks))
    stores = [Store(disk) for disk in disks]  # the end of one may be amid a sector of the other

    async def work() -> None:
        memories = bytearray(PIECE), bytearray(PIECE)
        while not found and (piece := await pieces.next()):
            if not piece.zero:
                parts = [memoryview(memory)[: piece.length] for memory in memories]
                await together(
                    store.read_into(piece.offset, [part])
                    for store, part in zip(stores, parts, strict=False)
                )
                # Of bytearrays, for those compare by memcmp.
                if memories[0] != memories[1] and parts[0] != parts[1]:
                    found.append(piece.offset + _first_difference(*memories))
            progress(piece.length)

    await together(work() for _ in range(IN_FLIGHT))


def _first_difference(one: bytearray, two: bytearray) -> int:
    start, stop = 0, len(one)
    while stop - start > 1:
        middle = (start + stop) // 2
        if one[start:middle] == two[start:middle]:
            start = middle
        else:
            stop = middle
    return start


async def extents(disk: Disk) -> AsyncIterator[Extent]:
    """What the whole disk holds; neighbours that are alike are one."""
    at, last = 0, None
    while at < disk.sector_count:
        for extent in await disk.extents(at, disk.sector_count - at):
            at = extent.sector + extent.count
            if last and (last.allocated, last.zero) == (extent.allocated, extent.zero):
                both = last.count + extent.count
                last = Extent(last.sector, both, extent.allocated, extent.zero)
            else:
                if last:
                    yield last
                last = extent
    if last:
        yield last
