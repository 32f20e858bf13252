"""Block requests, virtio 1.2 section 5.2.6: a chain parsed completely, before it has any effect.

A chain may cut header, data and status anywhere (section 2.7.4): the header is the first 16
readable bytes, the status the last writable one, and the data what is left.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.virtio.registers import BlockRequest, BlockStatus, BlockType, Segment
from drivebay.controllers.virtio.ring import Chain, RingError
from drivebay.disk.contract import byte_length

__all__ = ["Refused", "Request", "take"]

HEADER_BYTES: Final = BlockRequest.size
read_header = BlockRequest.layout.unpack_from


class Refused(Exception):
    """A request that fails with `status` before it has had any effect; `why` is for the log."""

    def __init__(self, status: BlockStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Request:
    """A parsed request: its header, its data buffers and the byte its status goes to.

    Raises `RingError` if there is no place for the status, since then nothing can be answered.
    """

    __slots__ = ("chain", "data", "sector", "status", "type", "written")

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        readable, writable = chain.readable, chain.writable
        if not writable or not len(writable[-1]):
            raise RingError("a request without a writable byte for its status")
        last = writable[-1]
        self.status = last[-1:]
        if len(last) == 1:
            del writable[-1]
        else:
            writable[-1] = last[:-1]
        self.written = 1
        header: memoryview | bytes
        if readable and len(readable[0]) == HEADER_BYTES:
            header = readable.pop(0)
        else:
            header = take(readable, HEADER_BYTES)
        if len(header) < HEADER_BYTES:
            self.type, self.sector, self.data = -1, 0, writable
            return
        self.type, _, self.sector = read_header(header)
        if self.type == BlockType.IN or self.type == BlockType.GET_ID:
            self.data = writable
            self.written = byte_length(writable) + 1
        else:
            self.data = readable

    def segments(self, limit: int) -> list[Segment]:
        """The ranges of a DISCARD or WRITE_ZEROES. Raises `Refused`; the list is never longer than
        `limit`, whatever the guest sends.
        """
        length = byte_length(self.data)
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
