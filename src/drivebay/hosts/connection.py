"""A server on a UNIX socket, one client at a time; what they say is the protocol's own business."""

from __future__ import annotations

import array
import logging
import select
import socket
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from drivebay.hosts.accepting import Acceptor
from drivebay.hosts.peer import PeerError, close_all
from drivebay.platform.engine import Engine, Lookout
from drivebay.platform.onlooker import Onlooker

__all__ = ["FIRST_MESSAGE_SECONDS", "Connection", "SocketServer"]

log = logging.getLogger(__name__)

MESSAGES_A_TURN: Final = 16
"""After so many the other devices of the engine have their turn."""
MAX_UNREAD: Final = 4096
"""Most messages that a client may send while it owes an answer."""
FIRST_MESSAGE_SECONDS: Final = 10.0
"""A client that says nothing for so long after it connected makes room for another."""


class Message(Protocol):
    """What a codec makes of bytes; it owns the descriptors that came with it."""

    def close_fds(self) -> None:
        """Close them."""


class Codec(Protocol):
    """The receiving half of a protocol. `receive` raises `PeerError`."""

    @property
    def wanted(self) -> int:
        """How many bytes to read next, at most."""

    def receive(self, data: bytes, fds: Sequence[int] = ()) -> Iterable[Any]:
        """Take bytes; the messages that they end."""

    def close(self) -> None:
        """Close the descriptors of a message that never became whole."""


class Session(Protocol):
    """What a client has set up. `handle` raises `PeerError`, or `OSError` of a descriptor."""

    messages: int
    """How many it has handled."""

    @property
    def busy(self) -> bool:
        """Whether the last message is not done yet: the next must wait."""

    def handle(self, message: Any) -> None:
        """Do what a message asks."""

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at accesses and interrupts."""

    def close(self) -> None:
        """The client is gone. `busy` until nothing of its is in flight."""

    def forget(self) -> None:
        """Let go of its memory, now that nothing touches it any more."""


class SocketServer(Acceptor):
    """Serves `listener`, on the engine's thread, until `close`.

    A client must send its first message within `patience` seconds. `close` removes the socket from
    the file system if it is `owned`.
    """

    max_fds = 1
    """Most descriptors that a client may send at once."""
    attentive = False
    """Whether to look out for the next message for a moment before sleeping."""

    def __init__(
        self,
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
        patience: float = FIRST_MESSAGE_SECONDS,
    ) -> None:
        self.patience = patience
        self._connection: Connection | None = None
        self._onlooker: Onlooker | None = None
        super().__init__(engine, listener, owned=owned)

    @abstractmethod
    def begin(self, connection: Connection) -> tuple[Codec, Session]:
        """A client has come: who reads what it says, and who does it."""

    @property
    def connected(self) -> bool:
        """Whether a client is being served, or something of its is still in flight."""
        return self._connection is not None

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at accesses and interrupts, of clients to come, too."""
        self._onlooker = onlooker
        if self._connection is not None:
            self._connection.watch(onlooker)

    def admit(self, client: socket.socket) -> None:
        """One client at a time."""
        if self._connection is not None:
            self.log.warning("%s: refused a second client: one is connected already", self.name)
            client.close()
            return
        self._connection = Connection(self, client)
        self._connection.watch(self._onlooker)

    def gone(self) -> None:
        """The client has left and nothing of its is in flight: another may come."""
        log.debug("%s: the client has left", self.name)
        self._connection = None

    def close(self) -> None:
        """Serve no more, and remove the socket."""
        if self.stop() and self._connection is not None:
            self._connection.close()


class Connection:
    """The socket of one client."""

    def __init__(self, server: SocketServer, client: socket.socket) -> None:
        self._server, self._engine, self._socket = server, server.engine, client
        client.setblocking(False)
        self._space = socket.CMSG_SPACE(server.max_fds * array.array("i").itemsize)
        self._open = True
        self._unread: deque[Message] = deque()
        self._lookout: Lookout | None = None
        if server.attentive:
            self._look = select.poll()
            self._look.register(client, select.POLLIN)
            self._lookout = Lookout(server.engine)
        self._codec, self._session = server.begin(self)
        self._silence = self._engine.after(server.patience, self._too_silent)
        self._engine.watch(client.fileno(), self._readable)

    def watch(self, onlooker: Onlooker | None) -> None:
        """Have somebody, or nobody, look on at the client's session."""
        self._session.watch(onlooker)

    def _readable(self) -> None:
        try:
            for _ in range(2 * MESSAGES_A_TURN):  # a header and a payload each
                while self._unread and self._open and not self._session.busy:
                    self._session.handle(self._unread.popleft())
                if not self._open:
                    return
                if self._session.busy:
                    self._wait()
                    return
                try:
                    data, fds = self._receive()
                except BlockingIOError:
                    if self._lookout is None or not self._lookout(self._came):
                        return
                    continue
                if not data:
                    self.close()
                    return
                self._unread.extend(self._codec.receive(data, fds))
            if self._unread:  # they wake nobody
                self._engine.later(self._go_on)
        except (PeerError, OSError) as error:
            self._drop(error)
        except Exception as error:
            what = "%s: connection closed by an unexpected error"
            self._server.log.error(what, self._server.name, exc_info=error)
            self.close()

    def _came(self) -> bool:
        return bool(self._look.poll(0))

    def _go_on(self) -> None:
        if self._open and not self._session.busy:
            self._readable()

    def _wait(self) -> None:
        """A message is not done yet: what comes meanwhile must wait, but not the end."""
        self._engine.unwatch(self._socket.fileno())
        self._engine.watch(self._socket.fileno(), self._look_hung_up, edge=True)

    def _look_hung_up(self) -> None:
        look = select.poll()
        look.register(self._socket, select.POLLRDHUP)
        if look.poll(0):
            self.close()

    def _receive(self) -> tuple[bytes, list[int]]:
        """What the codec wants, and the descriptors that came with it."""
        data, ancillary, flags, _ = self._socket.recvmsg(
            self._codec.wanted, self._space, socket.MSG_CMSG_CLOEXEC
        )
        if not ancillary and not flags & socket.MSG_CTRUNC:
            return data, []
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:
            close_all(fds)
            raise PeerError(f"more than {self._server.max_fds} descriptors at once")
        return data, list(fds)

    def send(self, data: bytes, fd: int | None = None) -> None:
        """Send bytes, and perhaps a descriptor with them. Never raises, whatever has become of the
        client: answers are sent from the midst of a device's work too. Answers are small: a client
        that leaves no room for them is broken, and let go.
        """
        if not self._open:
            return
        try:
            if fd is None:
                sent = self._socket.send(data)
            else:
                sent = socket.send_fds(self._socket, [data], [fd])
        except OSError as error:
            self.fail(error)
        else:
            if sent != len(data):
                self.fail("it takes no answers")

    # -- for protocols in which the server asks, too ---------------------------------------------

    def send_all(self, data: bytes, seconds: float) -> None:
        """Send more than may find room at once, waiting for that. Never raises."""
        room = select.poll()
        room.register(self._socket, select.POLLOUT)
        end = time.monotonic() + seconds
        view = memoryview(data)
        while view and self._open:
            left = end - time.monotonic()
            if left <= 0 or not room.poll(1000 * left):
                self.fail(f"it has taken no bytes for {seconds:g} s")
                return
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                self.fail(error)
                return

    def wait_for(self, wanted: Callable[[Any, bool], bool], seconds: float) -> Any | None:
        """The next message that is `wanted`, before its turn: told the message, and whether none
        has to be handled before it. None if the connection has ended, or does so for that none
        came. Nothing else of the engine's runs meanwhile. Never raises.
        """
        look = select.poll()
        look.register(self._socket, select.POLLIN)
        end = time.monotonic() + seconds
        while self._open:
            for place, message in enumerate(self._unread):
                if wanted(message, not place):
                    del self._unread[place]
                    return message
            left = end - time.monotonic()
            if left <= 0 or len(self._unread) > MAX_UNREAD or not look.poll(1000 * left):
                self.fail(f"no answer for {seconds:g} s")
                return None
            try:
                data, fds = self._receive()
                if not data:
                    self.fail("it hung up")
                    return None
                self._unread.extend(self._codec.receive(data, fds))
            except BlockingIOError:
                continue
            except (PeerError, OSError) as error:
                self.fail(error)
                return None
        return None

    def fail(self, why: object) -> None:
        """Close the connection, but not from the midst of a device's work."""
        self._engine.later(partial(self._drop, why))

    def resumed(self) -> None:
        """What was busy no longer is."""
        if self._open:
            self._engine.unwatch(self._socket.fileno())
            self._engine.watch(self._socket.fileno(), self._readable)
            self._engine.later(self._go_on)
        elif not self._session.busy:
            self._end()

    def _too_silent(self) -> None:
        if self._open and not self._session.messages:
            self._drop(f"no message in {self._server.patience:g} s")

    def _drop(self, why: object) -> None:
        if self._open:
            self._server.log.warning("%s: connection closed: %s", self._server.name, why)
            self.close()

    def close(self) -> None:
        """Hang up, and let go of all that the client gave us."""
        if not self._open:
            return
        self._open = False
        self._silence.cancel()
        self._engine.unwatch(self._socket.fileno())
        self._socket.close()
        self._codec.close()
        for message in self._unread:
            message.close_fds()
        self._unread.clear()
        self._session.close()
        if not self._session.busy:
            self._end()

    def _end(self) -> None:
        self._session.forget()
        self._server.gone()
