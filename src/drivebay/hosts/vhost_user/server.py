"""The vhost-user server: a UNIX socket, one front end at a time."""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import select
import socket
import stat
from functools import partial
from typing import Final

from drivebay.hosts.vhost_user.codec import MAX_FDS, Codec, PeerError, close_all
from drivebay.hosts.vhost_user.session import Session
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.virtio import Device

__all__ = ["ServerError", "VhostUserServer", "inherited_sockets", "listen"]

log = logging.getLogger(__name__)

MESSAGES_A_TURN: Final = 16
"""After so many the other devices of the engine have their turn."""
FIRST_MESSAGE_SECONDS: Final = 10.0
"""A client that says nothing for so long after it connected makes room for another."""


class ServerError(Exception):
    """A socket that cannot be served: what, and a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def listen(path: str) -> socket.socket:
    """A listening socket at `path`, mode 0600; a stale one is replaced. Raises `ServerError`."""
    _clear_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)  # the socket must never be there with another mode, not for a moment
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ServerError(*_why_not(path, error)) from None
    finally:
        os.umask(mask)
    listener.listen()
    return listener


def _clear_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ServerError(
                f"socket {path}: there is a file of that name that is not a socket",
                "choose another name with socket=PATH",
            )
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise ServerError(
        f"socket {path}: another server is listening there",
        "stop it, or choose another name with socket=PATH",
    )


def _why_not(path: str, error: OSError) -> tuple[str, str]:
    folder = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return f"socket {path}: there is no folder {folder}", f"mkdir -p {folder}"
    if "too long" in str(error):
        return f"socket {path}: the path is too long", "UNIX sockets take 107 bytes"
    return f"socket {path}: {error.strerror}", "choose a place you may write to with socket=PATH"


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that systemd, or whoever speaks its protocol, has handed us.

    Raises `ServerError` if it has not.
    """
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # they are not for our children
    try:
        listeners = [socket.socket(fileno=3 + n) for n in range(int(count))]
    except (OSError, ValueError):
        raise ServerError(
            f"LISTEN_FDS={count}: there are no such sockets",
            "whoever starts us by socket activation must pass them from descriptor 3 on",
        ) from None
    for listener in listeners:
        listener.set_inheritable(False)
    return listeners


class VhostUserServer:
    """Serves `device` on `listener`, on the engine's thread, until `close`.

    A client must send its first message within `patience` seconds. `close` removes the socket from
    the file system if it is `owned`: one that was inherited is somebody else's.
    """

    def __init__(
        self,
        device: Device,
        engine: Engine,
        listener: socket.socket,
        *,
        owned: bool = True,
        patience: float = FIRST_MESSAGE_SECONDS,
    ) -> None:
        self._device, self._engine, self._listener = device, engine, listener
        self._owned, self.patience = owned, patience
        self._connection: _Connection | None = None
        self.log = RationedLog(log)  # a client that comes back at once may do so for ever
        self._closed = False
        self.name = str(listener.getsockname())
        listener.setblocking(False)
        self._watch()

    @property
    def connected(self) -> bool:
        """Whether a front end is being served, or something of its is still in flight."""
        return self._connection is not None

    def _watch(self) -> None:
        if not self._closed:
            self._engine.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # out of descriptors, say: it can only get better
            self.log.warning("%s: a client cannot be accepted: %s", self.name, error)
            self._engine.unwatch(self._listener.fileno())
            self._engine.after(1.0, self._watch)
            return
        if self._connection is not None:
            self.log.warning("%s: refused a second client: one is connected already", self.name)
            client.close()
            return
        log.debug("%s: a front end has connected", self.name)
        self._connection = _Connection(self, self._device, self._engine, client)

    def gone(self) -> None:
        """The front end has left and nothing of its is in flight: another may come."""
        log.debug("%s: the front end has left", self.name)
        self._connection = None

    def close(self) -> None:
        """Serve no more, and remove the socket."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            self._connection.close()
        self._engine.unwatch(self._listener.fileno())
        self._listener.close()
        if self._owned:
            with contextlib.suppress(OSError):
                os.unlink(self.name)


class _Connection:
    """The socket of one front end."""

    def __init__(
        self, server: VhostUserServer, device: Device, engine: Engine, client: socket.socket
    ) -> None:
        self._server, self._engine, self._socket = server, engine, client
        client.setblocking(False)
        self._codec = Codec()
        self._open = True
        self._session = Session(device, engine, self._send, self._resumed, server.log)
        self._silence = engine.after(server.patience, self._too_silent)
        engine.watch(client.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            for _ in range(2 * MESSAGES_A_TURN):  # a header and a payload each
                if not self._open:
                    return
                if self._session.busy:
                    self._wait()
                    return
                data, fds = self._receive()
                if not data:
                    self.close()
                    return
                for message in self._codec.receive(data, fds):
                    self._session.handle(message)
        except BlockingIOError:
            return
        except (PeerError, OSError) as error:
            self._drop(error)
        except Exception as error:
            what = "%s: connection closed by an unexpected error"
            self._server.log.error(what, self._server.name, exc_info=error)
            self.close()

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
        """No more than the codec wants, and the descriptors that came with it."""
        space = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        data, ancillary, flags, _ = self._socket.recvmsg(
            self._codec.wanted, space, socket.MSG_CMSG_CLOEXEC
        )
        fds = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:
            close_all(fds)
            raise PeerError(f"more than {MAX_FDS} descriptors at once")
        return data, list(fds)

    def _send(self, data: bytes, fd: int | None = None) -> None:
        """Answers are small: a front end that leaves no room for them is broken, and let go."""
        if not self._open:
            return
        try:
            sent = socket.send_fds(self._socket, [data], [] if fd is None else [fd])
        except OSError as error:
            self._engine.later(partial(self._drop, error))
        else:
            if sent != len(data):
                self._engine.later(partial(self._drop, "it takes no answers"))

    def _resumed(self) -> None:
        if self._open:
            self._engine.unwatch(self._socket.fileno())
            self._engine.watch(self._socket.fileno(), self._readable)
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
        """Hang up, and let go of all that the front end gave us."""
        if not self._open:
            return
        self._open = False
        self._silence.cancel()
        self._engine.unwatch(self._socket.fileno())
        self._socket.close()
        self._codec.close()
        self._session.close()
        if not self._session.busy:
            self._end()

    def _end(self) -> None:
        self._session.forget()
        self._server.gone()
