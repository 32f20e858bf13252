"""Requests in, replies out, as they are done: the transmission phase of one client.

What has come is taken apart in place, and each reply is built where it is sent from: `preadv` puts
the data of a READ behind its header, and one send takes the replies of all that came at once. A
request that waits has its reply cut out and sent when it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from drivebay.disk.backends.transfer import IOV_MAX
from drivebay.disk.contract import Operation
from drivebay.disk.errors import DiskError
from drivebay.disk.nbd.errors import number_of
from drivebay.disk.nbd.messages import (
    CHUNK_MAGIC,
    MOST_PAYLOAD,
    REQUEST_MAGIC,
    SIMPLE_MAGIC,
    ChunkHeader,
    ChunkType,
    Command,
    CommandFlags,
    ContextId,
    Error,
    ErrorChunk,
    NbdError,
    OffsetData,
    ReplyFlags,
    RequestHeader,
    SimpleReply,
    name_of,
)
from drivebay.disk.nbd.offering import ALLOCATION_ID
from drivebay.hosts.nbd.export import Export
from drivebay.hosts.nbd.memory import ARENA, Lease, Pool
from drivebay.platform.engine import Engine, Task
from drivebay.platform.logs import RationedLog
from drivebay.suspend import DONE, Cancelled

__all__ = ["Session"]

LARGE: Final = 64 << 10
"""More bytes than this have memory of their own."""
MOST_HELD: Final = 64 << 20
"""Bytes that one client's requests may hold before no more of them are looked at."""
MOST_REQUESTS: Final = 256
"""Requests of one client under way at once; the next wait in its socket."""

REQUEST: Final = RequestHeader.size
SIMPLE: Final = SimpleReply.size
DATA: Final = OffsetData.size
unpack_request = RequestHeader.unpack_from
pack_simple = SimpleReply.layout.pack_into
pack_data = OffsetData.layout.pack_into

MOST_MESSAGE: Final = 4096
"""Bytes of an error message."""

READ, WRITE = int(Command.READ), int(Command.WRITE)
FUA = int(CommandFlags.FUA)
READ_FLAGS: Final = int(CommandFlags.DF)
CHANGES: Final = (WRITE, Command.TRIM, Command.WRITE_ZEROES)
NEEDS_SPACE: Final = (WRITE, Command.WRITE_ZEROES)
FLAGS: Final = {
    Command.FLUSH: 0,
    Command.TRIM: CommandFlags.FUA,
    Command.CACHE: 0,
    Command.WRITE_ZEROES: CommandFlags.FUA | CommandFlags.NO_HOLE | CommandFlags.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlags.REQ_ONE,
}
"""The flags that each may have ("Command flags")."""

Send = Callable[[Sequence[memoryview]], int]
"""Sends some bytes of the buffers; how many."""


class _Refused(Exception):
    """A request that is answered with an error before it has any effect."""

    def __init__(self, error: Error, why: str) -> None:
        super().__init__(why)
        self.error = error


class Session:
    """What one client asks of `export`. `changed` is told that `stopped` or `busy` may have.

    `space` says where to receive, `received` how much came. Both are for when it is not `stopped`.
    """

    def __init__(
        self,
        export: Export,
        engine: Engine,
        pool: Pool,
        send: Send,
        changed: Callable[[], None],
        log: RationedLog,
        *,
        structured: bool = False,
        allocation: bool = False,
    ) -> None:
        self._export, self._engine, self._pool, self._log = export, engine, pool, log
        self._send, self._changed = send, changed
        self._structured, self._allocation = structured, allocation
        self._head = DATA if structured else SIMPLE
        self.ended = False
        """The client has said that it asks no more."""
        self._open = True
        self._tasks: set[Task] = set()
        self._in_flight = 0
        self._held = 0
        self._ending_turn = False

        self._came = self._take(ARENA)  # what has come: bytes `_from` to `_to`
        self._from = self._to = 0
        self._wanted = REQUEST  # what is at `_from` has so many bytes
        self._skipped = 0  # bytes to come that belong to a write that was refused
        self._large: tuple[Lease, int, int, int] | None = None  # flags, cookie, offset
        self._large_length = self._large_came = 0
        self._after_large = False

        self._page = self._take(ARENA)  # replies: bytes `_sent` to `_end` are to be sent
        self._sent = self._end = 0
        self._out: list[memoryview] = []
        self._sending: list[Lease] = []

    # -- memory ----------------------------------------------------------------------------------

    def _take(self, size: int) -> Lease:
        lease = self._pool.take(size)
        self._held += lease.size
        return lease

    def _give_back(self, lease: Lease) -> None:
        self._held -= lease.size
        self._pool.give_back(lease)

    # -- receiving -------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether nothing more is looked at until what is under way, or to be sent, gets less."""
        return bool(self._out) or self._held > MOST_HELD or self._in_flight >= MOST_REQUESTS

    @property
    def busy(self) -> bool:
        """Whether requests are under way, or their replies."""
        return bool(self._in_flight or self._out)

    def space(self) -> memoryview:
        """Where to put what comes next."""
        if self._large is not None:
            return self._large[0].view[self._large_came : self._large_length]
        if self._from == self._to and not self._came.users:
            self._from = self._to = 0
        if ARENA - self._from < self._wanted or self._to == ARENA:
            self._move_on()
        if self._after_large:
            # Mostly another follows, and what comes with its header would have to be copied.
            return self._came.view[self._to : self._from + self._wanted]
        return self._came.view[self._to :]

    def _move_on(self) -> None:
        """Begin at the start of an arena."""
        rest = bytes(self._came.view[self._from : self._to])
        if self._came.users:
            self._came = self._take(ARENA)
        self._came.view[: len(rest)] = rest
        self._from, self._to = 0, len(rest)

    def received(self, count: int) -> None:
        """Do what has come, `count` bytes more. Raises `NbdError`."""
        if self._large is not None:
            self._large_came += count
            if self._large_came == self._large_length:
                self._write_large()
        else:
            self._to += count
        self.go_on()

    def go_on(self) -> None:
        """Look at what has come, and send what is done. Raises `NbdError`."""
        while not self._take_apart():
            self.flush()
            if self.stopped:
                return
        self.flush()

    def _take_apart(self) -> bool:
        """Begin the requests that are there; False if that had to stop before the last of them."""
        if self._skipped:
            count = min(self._skipped, self._to - self._from)
            self._from += count
            self._skipped -= count
        view = self._came.view
        self._wanted = REQUEST
        while self._to - self._from >= REQUEST and self._large is None and not self.ended:
            magic, flags, kind, cookie, offset, length = unpack_request(view, self._from)
            if magic != REQUEST_MAGIC:
                raise NbdError("no request begins like that")
            if kind == READ:
                self._from += REQUEST
                self._read(flags, cookie, offset, length)
            elif kind == WRITE:
                if not self._write(flags, cookie, offset, length):
                    return True
            else:
                self._from += REQUEST
                self._other(flags, kind, cookie, offset, length)
            if self.stopped:
                return False
        return True

    # -- reading ---------------------------------------------------------------------------------

    def _read(self, flags: int, cookie: int, offset: int, length: int) -> None:
        if flags & ~READ_FLAGS or not 0 < length <= LARGE:
            self._read_otherwise(flags, cookie, offset, length)
            return
        head = self._head
        if self._end + head + length > ARENA:
            self._turn_page()
        page, start = self._page, self._end
        body = start + head
        end = self._end = body + length
        if self._structured:
            pack_data(
                page.view,
                start,
                CHUNK_MAGIC,
                ReplyFlags.DONE,
                ChunkType.OFFSET_DATA,
                cookie,
                length + 8,
                offset,
            )
        else:
            pack_simple(page.view, start, SIMPLE_MAGIC, 0, cookie)
        operation = self._export.read(offset, page.view[body:end])
        if operation is not DONE:
            self._wait_for_read(operation, cookie, page, start)

    def _wait_for_read(self, operation: Operation, cookie: int, page: Lease, start: int) -> None:
        """The last reply of the page is not there yet."""
        end = self._end
        try:
            suspension = operation.send(None)
        except StopIteration:
            return
        except Exception as error:
            self._end = start
            self._fail(cookie, error)
            return
        self._cut(start)
        self._sent = end
        page.users += 1

        def done(value: Any, error: BaseException | None) -> None:
            page.users -= 1
            if error is None:
                self._out.append(page.view[start:end])
            else:
                self._fail(cookie, error)

        self._begin(operation, done, suspension)

    def _read_otherwise(self, flags: int, cookie: int, offset: int, length: int) -> None:
        """One that is large, or wrong."""
        try:
            self._check(READ, flags, READ_FLAGS, offset, length)
            if length > MOST_PAYLOAD:
                raise _Refused(Error.EOVERFLOW, f"a read of {length} bytes")
        except _Refused as refused:
            self._refuse(cookie, refused)
            return
        lease = self._take(length)
        lease.users += 1
        data = lease.view[:length]

        def done(value: Any, error: BaseException | None) -> None:
            lease.users -= 1
            if error is not None:
                self._give_back(lease)
                self._fail(cookie, error)
                return
            at = self._place(self._head)
            if self._structured:
                kind, size = ChunkType.OFFSET_DATA, length + 8
                header = (CHUNK_MAGIC, ReplyFlags.DONE, kind, cookie, size, offset)
                pack_data(self._page.view, at, *header)
            else:
                pack_simple(self._page.view, at, SIMPLE_MAGIC, 0, cookie)
            self._cut(self._end)
            self._out.append(data)
            self._sending.append(lease)

        self._start(self._export.read(offset, data), done)

    # -- writing ---------------------------------------------------------------------------------

    def _write(self, flags: int, cookie: int, offset: int, length: int) -> bool:
        """Whether all that is needed has come."""
        body = self._from + REQUEST
        here = self._to - body
        try:
            self._check(WRITE, flags, FUA, offset, length)
            if length > MOST_PAYLOAD:
                raise _Refused(Error.EINVAL, f"a write of {length} bytes")
        except _Refused as refused:
            self._from = min(body + length, self._to)
            self._skipped = length - (self._from - body)
            self._after_large = False
            self._refuse(cookie, refused)
            return not self._skipped
        self._after_large = length > LARGE
        if self._after_large:
            lease = self._take(length)
            self._large_length, self._large_came = length, min(here, length)
            lease.view[: self._large_came] = self._came.view[body : body + self._large_came]
            self._from = body + self._large_came
            self._large = (lease, flags, cookie, offset)
            if self._large_came == length:
                self._write_large()
            return True
        if here < length:
            self._wanted = REQUEST + length
            return False
        came = self._came
        self._from = body + length
        operation = self._export.write(offset, came.view[body : self._from], bool(flags & FUA))
        if operation is DONE:
            self._simple(cookie, 0)
        else:
            came.users += 1
            self._start(operation, partial(self._written, came, cookie))
        return True

    def _write_large(self) -> None:
        assert self._large is not None
        lease, flags, cookie, offset = self._large
        self._large = None
        data = lease.view[: self._large_length]
        lease.users += 1
        operation = self._export.write(offset, data, bool(flags & FUA))
        self._start(operation, partial(self._written, lease, cookie))

    def _written(self, lease: Lease, cookie: int, value: Any, error: BaseException | None) -> None:
        lease.users -= 1
        if not lease.users and lease is not self._came:
            self._give_back(lease)
        self._done(cookie, value, error, writing=True)

    # -- the rest --------------------------------------------------------------------------------

    def _other(self, flags: int, kind: int, cookie: int, offset: int, length: int) -> None:
        if kind == Command.DISC:
            self.ended = True
            return
        try:
            if kind not in FLAGS:
                raise _Refused(Error.EINVAL, f"there is no {name_of(Command, kind)} here")
            if kind != Command.FLUSH:
                self._check(kind, flags, FLAGS[Command(kind)], offset, length)
            operation = self._operation(flags, kind, offset, length)
        except _Refused as refused:
            self._refuse(cookie, refused)
            return
        done = self._status if kind == Command.BLOCK_STATUS else self._done
        self._start(operation, partial(done, cookie))

    def _operation(
        self, flags: int, kind: int, offset: int, length: int
    ) -> Coroutine[Any, Any, Any]:
        export, fua = self._export, bool(flags & FUA)
        if kind == Command.FLUSH:
            return export.disk.flush()
        if kind == Command.TRIM:
            return export.trim(offset, length, fua)
        if kind == Command.CACHE:
            return export.cache(offset, length)
        if kind == Command.WRITE_ZEROES:
            unmap = not flags & CommandFlags.NO_HOLE
            if flags & CommandFlags.FAST_ZERO and not (unmap and export.zeroes_fast):
                raise _Refused(Error.ENOTSUP, "zeroes would have to be written")
            return export.write_zeroes(offset, length, fua, unmap)
        if not self._allocation:
            raise _Refused(Error.EINVAL, "no context was selected")
        return export.status(offset, length, bool(flags & CommandFlags.REQ_ONE))

    def _check(self, kind: int, flags: int, allowed: int, offset: int, length: int) -> None:
        """Refuse what makes no sense, whatever the disk."""
        export = self._export
        if flags & ~allowed:
            raise _Refused(Error.EINVAL, f"{name_of(Command, kind)} with flags {flags:#x}")
        if export.read_only and kind in CHANGES:
            raise _Refused(Error.EPERM, "the export is read-only")
        if not length:
            raise _Refused(Error.EINVAL, f"{name_of(Command, kind)} of no bytes")
        if not export.lies_on_it(offset, length):
            what = f"{name_of(Command, kind)} of {length} bytes at {offset}, past the end"
            raise _Refused(Error.ENOSPC if kind in NEEDS_SPACE else Error.EINVAL, what)

    # -- operations that wait --------------------------------------------------------------------

    def _start(
        self,
        operation: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Take an operation's first step; `done` is told its end."""
        try:
            suspension = operation.send(None)
        except StopIteration as stop:
            done(stop.value, None)
        except Exception as error:
            done(None, error)
        else:
            self._begin(operation, done, suspension)

    def _begin(
        self,
        operation: Coroutine[Any, Any, Any],
        done: Callable[[Any, BaseException | None], None],
        suspension: Any,
    ) -> None:
        def ended(value: Any, error: BaseException | None) -> None:
            self._in_flight -= 1
            self._tasks.discard(task)
            done(value, error)
            self._end_turn()

        self._in_flight += 1
        task = Task(self._engine, operation, ended, suspension)
        self._tasks.add(task)

    def _end_turn(self) -> None:
        """What ended in this turn is sent together."""
        if not self._ending_turn:
            self._ending_turn = True
            self._engine.at_end_of_turn(self._turn_ended)

    def _turn_ended(self) -> None:
        self._ending_turn = False
        if self._open:
            self.flush()
        else:
            self._out.clear()
        self._changed()

    # -- replies ---------------------------------------------------------------------------------

    def _done(
        self, cookie: int, value: Any, error: BaseException | None, *, writing: bool = False
    ) -> None:
        if error is None:
            self._simple(cookie, 0)
        else:
            self._fail(cookie, error, writing)

    def _status(self, cookie: int, value: Any, error: BaseException | None) -> None:
        if error is None:
            payload = ContextId(ALLOCATION_ID).pack() + value
            self._chunk(cookie, ChunkType.BLOCK_STATUS, payload)
        else:
            self._fail(cookie, error)

    def _refuse(self, cookie: int, refused: _Refused) -> None:
        self._error(cookie, refused.error, str(refused))

    def _fail(self, cookie: int, error: BaseException, writing: bool = False) -> None:
        if not isinstance(error, DiskError | Cancelled):
            self._log.error("a request failed by an unexpected error", exc_info=error)
        self._error(cookie, number_of(error, writing), str(error))

    def _error(self, cookie: int, error: Error, why: str) -> None:
        if self._structured:
            text = why.encode()[:MOST_MESSAGE]
            payload = ErrorChunk(error, len(text)).pack() + text
            self._chunk(cookie, ChunkType.ERROR, payload)
        else:
            self._simple(cookie, error)

    def _simple(self, cookie: int, error: int) -> None:
        at = self._place(SIMPLE)
        pack_simple(self._page.view, at, SIMPLE_MAGIC, error, cookie)

    def _chunk(self, cookie: int, kind: ChunkType, payload: bytes) -> None:
        header = ChunkHeader(CHUNK_MAGIC, ReplyFlags.DONE, kind, cookie, len(payload))
        data = header.pack() + payload
        at = self._place(len(data))
        self._page.view[at : at + len(data)] = data

    def _place(self, size: int) -> int:
        """Where in the page the next reply of `size` bytes goes."""
        if self._end + size > ARENA:
            self._turn_page()
        at = self._end
        self._end = at + size
        return at

    def _turn_page(self) -> None:
        """Make room for replies: by sending those that are there, or in another page."""
        self.flush()
        if self._end:
            self._sending.append(self._page)
            self._page = self._take(ARENA)
            self._sent = self._end = 0

    def _cut(self, at: int) -> None:
        """What the page has up to `at` is to be sent before what is put in `_out` now."""
        if at > self._sent:
            self._out.append(self._page.view[self._sent : at])
            self._sent = at

    def flush(self) -> None:
        """Send what is done, as far as the socket takes it."""
        self._cut(self._end)
        out = self._out
        while out:
            some = out[:IOV_MAX]
            count = self._send(some)
            whole = 0
            while whole < len(some) and count >= len(some[whole]):
                count -= len(some[whole])
                whole += 1
            del out[:whole]
            if whole < len(some):
                out[0] = out[0][count:]
                return
        if not self._page.users:
            self._sent = self._end = 0
        if self._sending:
            for lease in self._sending:
                if not lease.users:
                    self._give_back(lease)
            self._sending = [lease for lease in self._sending if lease.users]

    def close(self) -> None:
        """The client is gone: give up what can be. `busy` until the rest has ended."""
        self._open = False
        for task in tuple(self._tasks):
            task.cancel()
        self._out.clear()
