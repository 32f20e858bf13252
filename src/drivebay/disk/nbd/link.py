"""One connection to an NBD server: requests go out from the engine's thread, a thread of its own
receives the replies, into the callers' buffers. A connection that is lost is made again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from drivebay.disk.backends.transfer import IOV_MAX
from drivebay.disk.buffers import cut
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import IoError
from drivebay.disk.nbd.joining import Agreed, Need, join
from drivebay.disk.nbd.messages import REQUEST_MAGIC, Command, NbdError, RequestHeader
from drivebay.disk.nbd.replies import Request, receive_reply
from drivebay.disk.nbd.tls import TlsStream, client_context
from drivebay.disk.nbd.uri import Address
from drivebay.suspend import Blocking

__all__ = ["Link", "Wire", "connect"]

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
RECEIVE: Final = 1 << 16
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 2.0

Part = memoryview | bytes


class Wire:
    """A socket that has been through the handshake, or is about to be."""

    def __init__(self, address: Address) -> None:
        self._socket = _socket(address)
        self._stream: TlsStream | None = None
        self._buffer = memoryview(bytearray(RECEIVE))
        self._from = self._to = 0
        self._rest: list[Part] = []  # what is left of a message that was sent in part

    # -- receiving: one thread -------------------------------------------------------------------

    def _receive_into(self, view: memoryview) -> int:
        if self._stream is None:
            count = self._socket.recv_into(view)
        else:
            count = self._decrypt_into(self._stream, view)
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the server has hung up")
        return count

    def _decrypt_into(self, stream: TlsStream, view: memoryview) -> int:
        while True:
            try:
                return stream.read_into(view)
            except BlockingIOError:
                stream.feed(self._socket.recv(RECEIVE))

    def take(self, count: int) -> bytes:
        """So many bytes, which the caller has found reasonable."""
        data = bytearray(count)
        self.into([memoryview(data)], count)
        return bytes(data)

    def into(self, buffers: Buffers, count: int) -> None:
        """Fill `buffers`: from what has come with something else, then from the socket."""
        for buffer in cut(buffers, 0, count):
            done = 0
            while done < len(buffer):
                here = min(self._to - self._from, len(buffer) - done)
                if here:
                    buffer[done : done + here] = self._buffer[self._from : self._from + here]
                    self._from += here
                    done += here
                elif len(buffer) - done >= RECEIVE:
                    done += self._receive_into(buffer[done:])
                else:
                    self._from, self._to = 0, self._receive_into(self._buffer)

    def drop(self, count: int) -> None:
        """Receive so many bytes for nobody."""
        scratch = memoryview(bytearray(RECEIVE))
        while count:
            part = min(count, RECEIVE)
            self.into([scratch], part)
            count -= part

    # -- sending: whoever has the lock of the link -----------------------------------------------

    def send(self, parts: Sequence[Part], *, wait: bool) -> bool:
        """Send all of `parts`, after what is left from before; whether all has gone."""
        if self._stream is not None and parts:
            parts = [self._stream.write(parts)]
        self._rest += parts
        while self._rest:
            some = self._rest[:IOV_MAX]
            try:
                count = self._socket.sendmsg(some, [], 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            whole = 0
            while whole < len(some) and count >= len(some[whole]):
                count -= len(some[whole])
                whole += 1
            del self._rest[:whole]
            if count:
                self._rest[0] = memoryview(self._rest[0])[count:]
        return True

    # -- the handshake ---------------------------------------------------------------------------

    def join(self, address: Address) -> Agreed:
        """Agree on the export. Raises `NbdError` and `OSError`."""
        joining = join(address.export, tls=address.tls)
        answer = b""
        try:
            step = next(joining)
            while True:
                answer = b""
                if isinstance(step, bytes):
                    self.send([step], wait=True)
                elif step is Need.TLS:
                    self._begin_tls(address)
                elif isinstance(step, int):
                    answer = self.take(step)
                step = joining.send(answer)
        except StopIteration as stop:
            self._socket.settimeout(None)
            agreed: Agreed = stop.value
            return agreed

    def _begin_tls(self, address: Address) -> None:
        if self._from != self._to:
            raise NbdError("the server sent something between its consent to TLS and TLS")
        context = client_context(address.certificates, address.verify_peer)
        stream = TlsStream(context, address.hostname)
        while True:
            done = stream.handshake()
            self._socket.sendall(stream.write([]))
            if done:
                break
            stream.feed(self._socket.recv(RECEIVE))
        self._stream = stream

    def shut(self) -> None:
        """End it, whoever uses it now."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()


def _socket(address: Address) -> socket.socket:
    if address.socket is None:
        made = socket.create_connection((address.host, address.port), HANDSHAKE_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(HANDSHAKE_SECONDS)
        made.connect(address.socket)
    except BaseException:
        made.close()
        raise
    return made


def connect(address: Address) -> tuple[Wire, Agreed]:
    """A connection that is ready for requests. Raises `NbdError` and `OSError`."""
    wire = Wire(address)
    try:
        return wire, wire.join(address)
    except BaseException:
        wire.close()
        raise


class _Push(Blocking[None]):
    """Sending what found no room at once. It cannot be given up: half a request cannot be."""

    def cancel(self) -> bool:
        return False


class Link:
    """Requests over `wire`, and over others when it is lost.

    While there is none, requests wait `retry` seconds, then fail. `joined` is told of every new
    connection what was agreed on, and may raise `NbdError` to refuse it; `ended` of every request
    that has succeeded, before whoever waits for it; `lost` that the connection is. All three are
    called on the link's own thread.
    """

    def __init__(
        self,
        address: Address,
        wire: Wire,
        agreed: Agreed,
        *,
        retry: float,
        joined: Callable[[Agreed], None],
        ended: Callable[[Request], None],
        lost: Callable[[Link], None],
    ) -> None:
        self._address, self._agreed, self._retry = address, agreed, retry
        self._joined, self._ended, self._lost = joined, ended, lost
        self._lock = threading.Lock()  # of the requests, the wire and the thread
        self._wire: Wire | None = wire
        self._pending: dict[int, Request] = {}
        self._cookie = 0
        self._sending = threading.Lock()
        self._backlog: deque[tuple[Wire, Sequence[Part]]] = deque()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._start(wire)

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._wire is not None

    @property
    def load(self) -> int:
        """Requests under way."""
        return len(self._pending)

    def _start(self, wire: Wire | None) -> None:
        self._thread = threading.Thread(target=self._serve, args=(wire,), daemon=True)
        self._thread.name = "drivebay-nbd"
        self._thread.start()

    # -- sending ---------------------------------------------------------------------------------

    async def perform(self, request: Request) -> Any:
        """What comes of a request. Raises `IoError` where the server cannot be reached."""
        with self._lock:
            if self._closing.is_set():
                raise IoError(errno.ENOTCONN, f"nbd {self._address.place}")
            self._cookie += 1
            request.cookie = self._cookie
            self._pending[request.cookie] = request
            wire = self._wire
            if self._thread is None:  # it has given up; this request is a reason to try again
                self._start(None)
        if wire is not None and not self._sent(wire, _message(request)):
            await _Push(self._push)
        return await request

    def _sent(self, wire: Wire, parts: Sequence[Part]) -> bool:
        """Whether all of a message has gone; if not, somebody has to `_push`."""
        if self._backlog or not self._sending.acquire(blocking=False):
            self._backlog.append((wire, parts))
            return False
        try:
            return wire.send(parts, wait=False)
        except (OSError, NbdError):
            wire.shut()  # the thread that receives sees to the rest
            return True
        finally:
            self._sending.release()

    def _push(self) -> None:
        """Send what waits, and wait for that."""
        with self._sending:
            while True:
                try:
                    wire, parts = self._backlog.popleft()
                except IndexError:
                    break
                self._push_parts(wire, parts)
            if (last := self._wire) is not None:
                self._push_parts(last, ())

    @staticmethod
    def _push_parts(wire: Wire, parts: Sequence[Part]) -> None:
        try:
            wire.send(parts, wait=True)
        except (OSError, NbdError):
            wire.shut()

    # -- receiving -------------------------------------------------------------------------------

    def _serve(self, wire: Wire | None) -> None:
        while True:
            if wire is not None:
                why = self._receive(wire)
                with self._lock:
                    self._wire = None
                if self._closing.is_set():
                    break
                log.warning("nbd %s: the connection is lost: %s", self._address.place, why)
                self._lost(self)
            if (wire := self._connect_again()) is None:
                break

    def _receive(self, wire: Wire) -> Exception:
        """Take replies until the connection is of no use; why it is not."""
        agreed = self._agreed
        try:
            while True:
                done = receive_reply(wire, self._pending, agreed.structured, agreed.allocation)
                if done is None:
                    continue
                with self._lock:
                    del self._pending[done.cookie]
                if done.error is None:
                    self._ended(done)
                done.give(done.extents)
        except (OSError, NbdError) as error:
            return error
        finally:
            wire.shut()
            with self._sending:  # nobody is sending to it
                wire.close()

    def _connect_again(self) -> Wire | None:
        """Another connection, with all that was under way sent again; None after giving up."""
        end = time.monotonic() + self._retry
        pause = FIRST_PAUSE
        while True:
            try:
                wire, agreed = connect(self._address)
                try:
                    self._joined(agreed)
                except NbdError:
                    wire.close()
                    raise
                self._resume(wire, agreed)
                return wire
            except (OSError, NbdError) as error:
                left = end - time.monotonic()
                if left <= 0 or self._closing.wait(min(pause, left)):
                    self._give_up(error)
                    return None
                pause = min(2 * pause, LONGEST_PAUSE)

    def _resume(self, wire: Wire, agreed: Agreed) -> None:
        self._agreed = agreed
        with self._lock:
            if self._closing.is_set():  # nobody would hang up
                wire.close()
                raise ConnectionAbortedError("the disk is being closed")
            self._wire = wire
            # Once it is claimed, its buffers may be used: nobody can give it up any more.
            self._pending = {c: one for c, one in self._pending.items() if one.claim()}
            for request in self._pending.values():
                request.begin_again()
                self._backlog.append((wire, _message(request)))
        log.warning("nbd %s: connected again", self._address.place)
        threading.Thread(target=self._push, daemon=True).start()

    def _give_up(self, error: Exception) -> None:
        with self._lock:
            self._thread = None
            failed, self._pending = list(self._pending.values()), {}
        for request in failed:
            request.fail(IoError(errno.ENOTCONN, f"nbd {self._address.place}: {error}"))

    def close(self) -> None:
        """Say good-bye and hang up. Requests that nobody has waited for end."""
        with self._lock:
            self._closing.set()
            thread, wire = self._thread, self._wire
        if wire is not None:
            self._sent(wire, _message(Request(Command.DISC)))
            wire.shut()
        if thread is not None:
            thread.join()
        self._give_up(ConnectionResetError("the disk was closed"))


def _message(request: Request) -> Sequence[Part]:
    data: Iterable[Part] = request.buffers if request.command == Command.WRITE else ()
    header = RequestHeader(
        REQUEST_MAGIC,
        request.flags,
        request.command,
        request.cookie,
        request.offset,
        request.length,
    )
    return [header.pack(), *data]
