"""Block requests, virtio 1.2 section 5.2.6: a chain parsed completely, before it has any effect.

A chain may cut header, data and status anywhere (section 2.7.4): the header is the first 16
readable bytes, the status the last writable one, and the data what is left.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.registers import BlockRequest, BlockStatus, Segment
from drivebay.controllers.virtio.ring import Chain
from drivebay.disk.contract import byte_length
from drivebay.platform.virtio import RingError

__all__ = ["NO_TYPE", "Refused", "Request", "take"]

HEADER_BYTES: Final = BlockRequest.size
NO_TYPE: Final = -1
read_header = BlockRequest.layout.unpack_from


class Refused(Exception):
    """A request that fails with `status` before it has had any effect; `why` is for the log."""

    def __init__(self, status: BlockStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Request:
    """A parsed request: its header, its data buffers, their length, the byte for its status.

    The data is what the device reads, or else what it writes; a request that has both is of no type
    that we know, or has made its header too long.

    Raises `RingError` if there is no place for the status, since then nothing can be answered.
    """

    __slots__ = ("chain", "data", "length", "sector", "status", "type")

    type: int
    sector: int

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        readable, writable = chain.readable, chain.writable
        if not writable or not len(writable[-1]):
            raise RingError("a request without a writable byte for its status")
        status = writable.pop()
        if len(status) > 1:
            writable.append(status[:-1])
            status = status[-1:]
        self.status = status
        if readable and len(readable[0]) == HEADER_BYTES:
            self.type, _, self.sector = read_header(readable.pop(0))
        else:
            header = take(readable, HEADER_BYTES)
            whole = len(header) == HEADER_BYTES
            self.type, _, self.sector = read_header(header) if whole else (NO_TYPE, 0, 0)
        self.data = readable or writable
        self.length = byte_length(self.data)

    @property
    def written(self) -> int:
        """What the used ring says: all that the device may have written, the status included."""
        return 1 + (self.length if self.data is self.chain.writable else 0)

    def segments(self, limit: int) -> list[Segment]:
        """The ranges of a DISCARD or WRITE_ZEROES. Raises `Refused`; the list is never longer than
        `limit`, whatever the guest sends.
        """
        length = self.length
        if not length or length % Segment.size:
            raise Refused(BlockStatus.IOERR, f"{length} bytes of segments")
        if length > limit * Segment.size:
            raise Refused(BlockStatus.IOERR, f"more than {limit} segments")
        table = take(self.data, length)
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
