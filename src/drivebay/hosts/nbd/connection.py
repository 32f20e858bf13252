"""The socket of one NBD client: first the handshake, then requests."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.disk.nbd.messages import NbdError
from drivebay.disk.nbd.offering import Offer, Stage
from drivebay.disk.nbd.tls import TlsStream
from drivebay.hosts.nbd.channel import Channel, SecureChannel
from drivebay.hosts.nbd.session import Session
from drivebay.platform.engine import Lookout

if TYPE_CHECKING:
    from drivebay.hosts.nbd.server import NbdServer

__all__ = ["Connection"]

log = logging.getLogger(__name__)

UNSENT: Final = 2 << 20
RECEIVED_A_TURN: Final = 8
"""After so many looks into the socket the others have their turn."""


class Connection:
    """A client of `server`. It is half open until it has agreed on an export."""

    def __init__(self, server: NbdServer, client: socket.socket) -> None:
        self._server, self._engine, self._socket = server, server.engine, client
        client.setblocking(False)
        # As much as the system allows: each time it is full, the client and we wait for each other.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = Channel(client)
        self._offer = Offer(server.exports, tls=server.tls is not None)
        self._securing: SecureChannel | None = None
        self._session: Session | None = None
        self._open = True
        self._step = self._haggle
        self._look = select.poll()
        self._look.register(client, select.POLLIN)
        self._lookout = Lookout(self._engine)
        # The engine watches for input only; a poll object that has something to say is input.
        self._room: select.epoll | None = None
        self._listening = False
        self._patience = self._engine.after(server.patience, self._too_slow)
        self._say(self._offer.greeting)
        self._listen(True)

    @property
    def half_open(self) -> bool:
        """Whether the handshake is under way."""
        return self._session is None

    @property
    def busy(self) -> bool:
        """Whether requests of its are under way."""
        return self._session is not None and self._session.busy

    # -- waiting ---------------------------------------------------------------------------------

    def _listen(self, wanted: bool) -> None:
        if wanted == self._listening or not self._open:
            return
        self._listening = wanted
        self._engine.unwatch(self._socket.fileno())
        if wanted:
            self._engine.watch(self._socket.fileno(), self._readable)
            if self._channel.holds_back:
                self._engine.later(self._go_on)
        else:
            self._engine.watch(self._socket.fileno(), self._look_hung_up, edge=True)

    def _look_hung_up(self) -> None:
        """Nothing is received, but a client that has gone is gone."""
        look = select.poll()
        look.register(self._socket, 0)
        if look.poll(0):
            self.close()

    def _readable(self) -> None:
        try:
            for _ in range(RECEIVED_A_TURN):
                try:
                    self._step()
                except BlockingIOError:
                    if self._session is None or not self._lookout(self._came):
                        return
                if not self._open or not self._listening:
                    return
            self._engine.later(self._go_on)  # what TLS has taken from the socket wakes nobody
        except (NbdError, OSError) as error:
            self._drop(error)
        except Exception as error:
            what = "%s: connection closed by an unexpected error"
            self._server.log.error(what, self._server.name, exc_info=error)
            self.close()

    def _came(self) -> bool:
        return bool(self._look.poll(0))

    def _go_on(self) -> None:
        if self._listening and self._open:
            self._readable()

    # -- handshake -------------------------------------------------------------------------------

    def _haggle(self) -> None:
        space = memoryview(bytearray(self._offer.wanted))
        count = self._channel.recv_into(space)
        if not count:
            self.close()
            return
        self._say(self._offer.receive(bytes(space[:count])))
        stage = self._offer.stage
        if stage is Stage.ABORTED:
            self.close()
        elif stage is Stage.TLS:
            assert self._server.tls is not None
            self._securing = SecureChannel(self._socket, TlsStream(self._server.tls))
            self._step = self._secure
        elif stage is Stage.AGREED:
            self._begin()

    def _secure(self) -> None:
        assert self._securing is not None
        if not self._securing.handshake():
            raise BlockingIOError
        self._channel = self._securing
        self._offer.secured()
        self._step = self._haggle

    def _say(self, data: bytes) -> None:
        """Answers of the handshake are small: a client that leaves no room for them is broken."""
        if data and (self._channel.send([data]) != len(data) or not self._channel.settled):
            raise NbdError("it takes no answers")

    def _begin(self) -> None:
        self._patience.cancel()
        assert self._offer.name is not None
        self._session = Session(
            self._server.export,
            self._engine,
            self._server.pool,
            self._send,
            self._changed,
            self._server.log,
            structured=self._offer.structured,
            allocation=self._offer.allocation,
        )
        self._step = self._receive
        log.debug("%s: a client uses the export", self._server.name)

    def _too_slow(self) -> None:
        self._drop(f"no export was agreed on in {self._server.patience:g} s")

    # -- transmission ----------------------------------------------------------------------------

    def _receive(self) -> None:
        assert self._session is not None
        count = self._channel.recv_into(self._session.space())
        if not count:
            self.close()
            return
        self._session.received(count)
        self._look_at(self._session)

    def _look_at(self, session: Session) -> None:
        """Receive as long as the session looks at what comes, and hang up when it has ended."""
        if session.ended and not session.busy and self._channel.settled:
            self.close()
        else:
            self._listen(not session.stopped and not session.ended)

    def _send(self, parts: Sequence[memoryview]) -> int:
        try:
            count = self._channel.send(parts)
        except (NbdError, OSError) as error:  # replies are sent from the midst of other work too
            self._engine.later(partial(self._drop, error))
            return 0
        if not self._channel.settled or count < sum(map(len, parts)):
            self._wait_for_room()
        return count

    def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = select.epoll()
            self._room.register(self._socket.fileno(), select.EPOLLOUT)
            self._engine.watch(self._room.fileno(), self._send_rest)

    def _forget_room(self) -> None:
        if self._room is not None:
            self._engine.unwatch(self._room.fileno())
            self._room.close()
            self._room = None

    def _send_rest(self) -> None:
        self._forget_room()
        assert self._session is not None
        try:
            self._channel.push()
            if self._channel.settled:
                self._session.flush()
            else:
                self._wait_for_room()
        except (NbdError, OSError) as error:
            self._drop(error)
        else:
            self._changed()

    def _changed(self) -> None:
        """Requests have ended, or replies have gone."""
        session = self._session
        assert session is not None
        if not self._open:
            if not session.busy:
                self._server.gone(self)
            return
        try:
            if not session.stopped:
                session.go_on()
        except (NbdError, OSError) as error:
            self._drop(error)
        else:
            self._look_at(session)

    # -- the end ---------------------------------------------------------------------------------

    def _drop(self, why: object) -> None:
        if not self._open:
            return
        if isinstance(why, ConnectionError):  # a tool that has seen enough just leaves
            log.debug("%s: the client has left: %s", self._server.name, why)
        else:
            self._server.log.warning("%s: connection closed: %s", self._server.name, why)
        self.close()

    def give_way(self) -> None:
        """Another client needs the place of one that has not agreed on anything yet."""
        self._drop("too many clients are half connected")

    def close(self) -> None:
        """Hang up, and give up what is under way."""
        if not self._open:
            return
        self._open = False
        self._patience.cancel()
        self._forget_room()
        self._engine.unwatch(self._socket.fileno())
        self._socket.close()
        if self._session is not None:
            self._session.close()
        if not self.busy:
            self._server.gone(self)
