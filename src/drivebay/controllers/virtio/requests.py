"""Block requests, virtio 1.2 section 5.2.6: a chain parsed completely, before it has any effect.

A chain may cut header, data and status anywhere (section 2.7.4): the header is the first 16
readable bytes, the status the last writable one, and the data what is left.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.registers import BlockRequest, BlockStatus, Segment
from drivebay.controllers.virtio.ring import WRITE, Rows, gather
from drivebay.disk.contract import byte_length
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import RingError

__all__ = [
    "FAULT",
    "NO_TYPE",
    "TWO_WAYS",
    "Frame",
    "Refused",
    "any_frame",
    "plain_frame",
    "segments",
    "take",
]

HEADER_BYTES: Final = BlockRequest.size
MAX_WRITTEN: Final = (1 << 32) - 1  # what a used ring can say
NO_TYPE: Final = -1
FAULT: Final = -2
TWO_WAYS: Final = -3
read_header = BlockRequest.layout.unpack_from


class Refused(Exception):
    """A request that fails with `status` before it has had any effect; `why` is for the log."""

    def __init__(self, status: BlockStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


Frame = tuple[int, int, list[memoryview], int, int, memoryview, int]
"""A request taken apart; a plain tuple, since making anything else would cost as much as parsing.

Its type; its sector (of 512 bytes); its data, which the device reads or else writes (no type that
we know has both), and the length of that; what the used ring says, which is all that the device may
write: 1 for the status, and `length` more if the data are the device's to write; the memory that
the status goes to, and where in it.
"""


def plain_frame(rows: Rows, window: tuple[int, int, memoryview]) -> Frame | None:
    """The request as every driver lays it out: header, data and status in descriptors of their own,
    all in the memory `window`. None if it is anything else.

    A hot path: it makes views of nothing but the data.
    """
    start, size, ram = window
    pieces: list[int] | None = None
    if len(rows) == 12:
        head, head_size, head_flags, _, at, length, flags, _, tail, tail_size, tail_flags, _ = rows
    elif len(rows) >= 8:
        head, head_size, head_flags, _, *pieces, tail, tail_size, tail_flags, _ = rows
    else:
        return None
    head, tail = head - start, tail - start
    if head_size != HEADER_BYTES or head_flags & WRITE or not 0 <= head <= size - HEADER_BYTES:
        return None
    if tail_size != 1 or not tail_flags & WRITE or not 0 <= tail < size:
        return None
    kind, _, sector = read_header(ram, head)
    if pieces is None:
        at -= start
        if not 0 < length <= size - at or at < 0 or length == MAX_WRITTEN:
            return None
        written = length + 1 if flags & WRITE else 1
        return kind, sector, [ram[at : at + length]], length, written, ram, tail
    data = []
    total = 0
    direction = pieces[2] & WRITE if pieces else 0
    for address, length, flags in zip(pieces[::4], pieces[1::4], pieces[2::4], strict=True):
        at = address - start
        if not 0 < length <= size - at or at < 0 or flags & WRITE != direction:
            return None
        data.append(ram[at : at + length])
        total += length
    if total >= MAX_WRITTEN:
        return None
    written = total + 1 if direction else 1
    return kind, sector, data, total, written, ram, tail


def any_frame(rows: Rows, memory: GuestMemory) -> Frame:
    """The request, cut and placed anywhere.

    Its type is `FAULT` if it names memory that is none, `NO_TYPE` if its header is too short, and
    `TWO_WAYS` if it has data to read and data to write.
    Raises `RingError` if there is no place for the status, since then nothing can be answered, and
    if the chain has 2^32 bytes or more (section 2.7.5.2).
    """
    readable, writable, fault = gather(memory, rows)
    if not writable or not len(writable[-1]):
        raise RingError("a request without a writable byte for its status")
    ram = writable.pop()
    status_at = len(ram) - 1
    if status_at:
        writable.append(ram[:-1])
    written = byte_length(writable) + 1
    if written > MAX_WRITTEN:
        raise RingError(f"a chain of {written} bytes to write")
    header = take(readable, HEADER_BYTES)
    whole = len(header) == HEADER_BYTES
    kind, _, sector = read_header(header) if whole else (NO_TYPE, 0, 0)
    if fault is not None:
        kind = FAULT
    elif readable and writable:
        kind = TWO_WAYS
    data = readable or writable
    return kind, sector, data, byte_length(data), written, ram, status_at


def segments(data: list[memoryview], length: int, limit: int) -> list[Segment]:
    """The ranges of a DISCARD or WRITE_ZEROES. Raises `Refused`; the list is never longer than
    `limit`, whatever the guest sends.
    """
    if not length or length % Segment.size:
        raise Refused(BlockStatus.IOERR, f"{length} bytes of segments")
    if length > limit * Segment.size:
        raise Refused(BlockStatus.IOERR, f"more than {limit} segments")
    table = take(data, length)
    return [Segment.unpack(table, offset) for offset in range(0, length, Segment.size)]


def take(buffers: list[memoryview], length: int) -> bytes:
    """A copy of the first `length` bytes of `buffers`, which go from the list; less if it ends."""
    copied = bytearray()
    while buffers and len(copied) < length:
        part = buffers[0][: length - len(copied)]
        copied += part
        if len(part) == len(buffers[0]):
            del buffers[0]
        else:
            buffers[0] = buffers[0][len(part) :]
    return bytes(copied)
