"""The client's half of the transmission phase: which request a reply belongs to, and that it is
one: every byte that was asked for comes once, or the connection is of no use any more.
"""

from __future__ import annotations

from bisect import bisect
from typing import Any, Final, Protocol

from drivebay.disk.buffers import cut, zero
from drivebay.disk.contract import Buffers
from drivebay.disk.nbd.messages import (
    CHUNK_MAGIC,
    SIMPLE_MAGIC,
    BlockStatus,
    ChunkHeader,
    ChunkType,
    Command,
    CommandFlags,
    ContextId,
    Error,
    ErrorChunk,
    Hole,
    NbdError,
    ReplyFlags,
    SimpleReply,
)
from drivebay.suspend import Promise

__all__ = ["Request", "Source", "receive_reply"]

MOST_CONTROL: Final = 1 << 20
"""Bytes of a chunk that has no data: of extents, or of an error's message."""
OFFSET: Final = 8
MOST_CHUNKS_PER_MEGABYTE: Final = 2048 + 64

CHANGES: Final = (Command.WRITE, Command.TRIM, Command.WRITE_ZEROES)


class Source(Protocol):
    """Where bytes come from. Methods raise `OSError` or `NbdError` at its end."""

    def take(self, count: int) -> bytes:
        """So many bytes."""

    def into(self, buffers: Buffers, count: int) -> None:
        """So many bytes, into the start of `buffers`."""

    def drop(self, count: int) -> None:
        """So many bytes that nobody wants."""


class Request(Promise[Any]):
    """A request under way: a promise of None, or of what BLOCK_STATUS has found.

    It can be given up until the first byte of its reply's data has come.
    """

    def __init__(
        self, command: Command, offset: int = 0, length: int = 0, *, flags: int = 0, cookie: int = 0
    ) -> None:
        super().__init__()
        self.command, self.offset, self.length = command, offset, length
        self.flags, self.cookie = flags, cookie
        self.buffers: Buffers = ()
        """What a READ fills, or a WRITE sends."""
        self.error: tuple[int, str] | None = None
        """The server's error value, and what it says."""
        self.extents: list[tuple[int, int]] = []
        """Lengths and flags."""
        self._coming = False
        self._chunks = 0
        self._parts: list[tuple[int, int]] = []

    @property
    def is_change(self) -> bool:
        """Whether a flush would have to cover it."""
        return self.command in CHANGES and not self.flags & CommandFlags.FUA

    def cancel(self) -> bool:
        """Give up, unless the reply is coming: its data go where they were asked for."""
        with self._meeting:
            self.abandoned = self._given is None and not self._coming
        return self.abandoned

    def claim(self) -> bool:
        """Whether somebody still wants the data; then they must come."""
        with self._meeting:
            self._coming = not self.abandoned
        return self._coming

    def begin_again(self) -> None:
        """What has come of it does not count: it is sent once more."""
        self.error, self.extents, self._chunks, self._parts = None, [], 0, []

    # -- chunks ----------------------------------------------------------------------------------

    def covers(self, offset: int, length: int) -> None:
        """Data for a part have come. Raises `NbdError` if they cannot be."""
        start = offset - self.offset
        if not (start >= 0 and length > 0 and start + length <= self.length):
            raise NbdError(f"data at {offset} that nobody asked for")
        at = bisect(self._parts, (start, 0))
        before_ends = self._parts[at - 1][1] if at else 0
        after_begins = self._parts[at][0] if at < len(self._parts) else self.length
        if before_ends > start or after_begins < start + length:
            raise NbdError(f"data at {offset} came twice")
        self._parts.insert(at, (start, start + length))

    def count_chunk(self) -> None:
        """One more. Raises `NbdError` if there are far too many."""
        self._chunks += 1
        if self._chunks > MOST_CHUNKS_PER_MEGABYTE * (1 + (self.length >> 20)):
            raise NbdError("a reply in too many parts")

    def check_whole(self) -> None:
        """Raise `NbdError` unless all has come that must."""
        if self.error is not None:
            return
        if self.command == Command.READ and sum(b - a for a, b in self._parts) != self.length:
            raise NbdError("a read ended before all its data had come")
        if self.command == Command.BLOCK_STATUS and not self.extents:
            raise NbdError("a block status without extents")


def receive_reply(
    source: Source, pending: dict[int, Request], structured: bool, allocation: int | None
) -> Request | None:
    """One reply, or a part of one; the request that it ends. Raises `OSError` and `NbdError`."""
    head = source.take(SimpleReply.size)
    magic = int.from_bytes(head[:4], "big")
    if magic == SIMPLE_MAGIC:
        reply = SimpleReply.unpack(head)
        return _simple(source, _find(pending, reply.cookie), reply.error, structured)
    if magic != CHUNK_MAGIC or not structured:
        raise NbdError("no reply begins like that")
    chunk = ChunkHeader.unpack(head + source.take(ChunkHeader.size - SimpleReply.size))
    request = _find(pending, chunk.cookie)
    request.count_chunk()
    if chunk.type == ChunkType.OFFSET_DATA:
        _data(source, request, chunk.length)
    elif chunk.length > MOST_CONTROL:
        raise NbdError(f"a chunk of type {chunk.type} with {chunk.length} bytes")
    else:
        _control(request, chunk.type, source.take(chunk.length), allocation)
    if not chunk.flags & ReplyFlags.DONE:
        return None
    request.check_whole()
    return request


def _find(pending: dict[int, Request], cookie: int) -> Request:
    try:
        return pending[cookie]
    except KeyError:
        raise NbdError(f"a reply to a request that was not made ({cookie:#x})") from None


def _simple(source: Source, request: Request, error: int, structured: bool) -> Request:
    if request.command == Command.READ and structured:
        raise NbdError("a simple reply to a read")
    if error:
        request.error = (error, "")
    elif request.command == Command.READ:
        request.covers(request.offset, request.length)
        _fill(source, request, 0, request.length)
    request.check_whole()
    return request


def _data(source: Source, request: Request, length: int) -> None:
    """OFFSET_DATA."""
    if request.command != Command.READ or length <= OFFSET:
        raise NbdError(f"{length} bytes of data for {request.command.name}")
    offset = int.from_bytes(source.take(OFFSET), "big")
    request.covers(offset, length - OFFSET)
    _fill(source, request, offset - request.offset, length - OFFSET)


def _fill(source: Source, request: Request, start: int, length: int) -> None:
    if request.claim():
        source.into(cut(request.buffers, start, start + length), length)
    else:
        source.drop(length)


def _control(request: Request, kind: int, payload: bytes, allocation: int | None) -> None:
    """A chunk without data."""
    if kind == ChunkType.NONE and not payload:
        return
    if kind == ChunkType.OFFSET_HOLE and request.command == Command.READ:
        if len(payload) != Hole.size:
            raise NbdError("a hole that makes no sense")
        hole = Hole.unpack(payload)
        request.covers(hole.offset, hole.length)
        if request.claim():
            start = hole.offset - request.offset
            zero(cut(request.buffers, start, start + hole.length))
    elif kind == ChunkType.BLOCK_STATUS and request.command == Command.BLOCK_STATUS:
        _extents(request, payload, allocation)
    elif kind & 1 << 15 and len(payload) >= ErrorChunk.size:
        error = ErrorChunk.unpack(payload)
        text = payload[ErrorChunk.size : ErrorChunk.size + error.length]
        request.error = request.error or (error.error or Error.EIO, text.decode(errors="replace"))
    else:
        raise NbdError(f"a chunk of type {kind} for {request.command.name}")


def _extents(request: Request, payload: bytes, allocation: int | None) -> None:
    head, size = ContextId.size, BlockStatus.size
    if len(payload) < head or (len(payload) - head) % size:
        raise NbdError("a block status that makes no sense")
    if request.extents or ContextId.unpack(payload).context != allocation:
        raise NbdError("a block status of a context that was not selected")
    request.extents = list(BlockStatus.layout.iter_unpack(payload[head:]))
    if not all(length for length, _ in request.extents):
        raise NbdError("an extent of no bytes")
