"""QEMU's machine protocol: the wire without a socket, and one connection's requests in order.

https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from drivebay import __version__
from drivebay.hosts.stream import Peer
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog

__all__ = ["Command", "Commands", "Messages", "QmpError", "QmpSession"]

log = logging.getLogger(__name__)

DEEPEST: Final = 64
LONGEST: Final = 1 << 20
"""Bytes of a request."""
QEMU_VERSION: Final = {"major": 10, "minor": 0, "micro": 0}
"""Whose commands these are."""

_TOKENS: Final = re.compile(rb'["\\{}\[\]\n]')


class QmpError(Exception):
    """A command fails; `kind` is the error's class."""

    def __init__(self, message: str, kind: str = "GenericError") -> None:
        super().__init__(message)
        self.kind = kind


class Messages:
    """Cuts what comes in into requests: JSON objects, wherever lines end; and lines of garbage."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start_over()

    def _start_over(self) -> None:
        self._seen = self._depth = 0
        self._in_string = self._broken = False

    def receive(self, data: bytes) -> Iterator[bytes | None]:
        """The requests that `data` ends; None stands for one that is too long or too deep."""
        self._buffer += data
        while (token := _TOKENS.search(self._buffer, self._seen)) is not None:
            end = token.end()
            if self._take(token[0], end):
                message = bytes(self._buffer[:end])
                broken = self._broken
                del self._buffer[:end]
                self._start_over()
                if broken or message.strip():
                    yield None if broken else message
        self._seen = max(self._seen, len(self._buffer))
        if len(self._buffer) > LONGEST:
            self._broken, self._seen = True, 0
            self._buffer.clear()

    def _take(self, token: bytes, end: int) -> bool:
        """Go past a token; whether it ends a request."""
        self._seen = end
        if token == b"\n":
            # A line ends what is not an object, and what is broken anyway.
            return self._broken or self._in_string or not self._depth
        if self._broken:
            return False
        if self._in_string:
            if token == b"\\":
                self._seen = end + 1
            elif token == b'"':
                self._in_string = False
            return False
        if token == b'"':
            self._in_string = True
        elif token in (b"{", b"["):
            self._depth += 1
            self._broken = self._depth > DEEPEST
        elif token in (b"}", b"]"):
            self._depth -= 1
            return self._depth <= 0
        return False


class Command(NamedTuple):
    """What a command's arguments are, and what does it: it returns the answer, or a coroutine."""

    arguments: type[Any]
    call: Callable[[Any], object]


class Commands(Protocol):
    """Who does the commands."""

    emit: Callable[[str, dict[str, Any]], None]
    """Set by the connection: where events go."""

    @property
    def commands(self) -> Mapping[str, Command]:
        """The commands by name."""

    def answered(self) -> None:
        """The answer to the last command is on its way: do what comes after it."""


class QmpSession:
    """One connection to `peer`: negotiation, requests in their order, events in between."""

    def __init__(self, commands: Commands, engine: Engine, peer: Peer) -> None:
        self._commands, self._engine, self._peer = commands, engine, peer
        self._messages = Messages()
        self._queue: deque[bytes | None] = deque()
        self._negotiated = self._busy = False
        self._log = RationedLog(log)
        commands.emit = self._event
        version = {"qemu": QEMU_VERSION, "package": f"drivebay {__version__}"}
        self._send({"QMP": {"version": version, "capabilities": []}})

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._queue += self._messages.receive(data)
        self._work()

    def _work(self) -> None:
        while self._queue and not self._busy:
            self._request(self._queue.popleft())
        self._peer.listen(not self._busy)

    def _send(self, message: dict[str, Any]) -> None:
        self._peer.send(msgspec.json.encode(message) + b"\r\n")

    def _event(self, name: str, data: dict[str, Any]) -> None:
        if not self._negotiated:
            return
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        stamp = {"seconds": seconds, "microseconds": microseconds}
        self._send({"event": name, "timestamp": stamp} | ({"data": data} if data else {}))

    # -- requests --------------------------------------------------------------------------------

    def _request(self, message: bytes | None) -> None:
        ident: dict[str, Any] = {}
        try:
            request = _decoded(message)
            ident = {"id": request["id"]} if "id" in request else {}
            value = self._execute(request)
        except Exception as error:
            self._answer(ident, None, error)
            return
        if not isinstance(value, Coroutine):
            self._answer(ident, value, None)
            return
        self._busy = True

        def done(value: Any, error: BaseException | None) -> None:
            self._answer(ident, value, error)
            self._busy = False
            self._engine.later(self._work)

        self._engine.start(value, done)

    def _execute(self, request: dict[str, Any]) -> object:
        """What the command returns. Raises `QmpError`, or what the command raises."""
        for key in request:
            if key not in ("execute", "arguments", "id"):
                raise QmpError(f"QMP input member '{key}' is unexpected")
        name, arguments = request.get("execute"), request.get("arguments", {})
        if not isinstance(name, str):
            raise QmpError("QMP input lacks member 'execute', a string")
        if not isinstance(arguments, dict):
            raise QmpError("QMP input member 'arguments' must be an object")
        if (name == "qmp_capabilities") == self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored"
                if self._negotiated
                else "Expecting capabilities negotiation with 'qmp_capabilities'",
                "CommandNotFound",
            )
        if not self._negotiated:
            if arguments.get("enable"):
                raise QmpError("there is no such capability")
            self._negotiated = True
            return {}
        command = self._commands.commands.get(name)
        if command is None:
            raise QmpError(f"The command {name[:80]} has not been found", "CommandNotFound")
        try:
            parsed = msgspec.convert(arguments, command.arguments)
        except msgspec.ValidationError as error:
            raise QmpError(f"{name}: {error}") from None
        return command.call(parsed)

    def _answer(self, ident: dict[str, Any], value: Any, error: BaseException | None) -> None:
        if error is None:
            self._send({"return": {} if value is None else value} | ident)
        else:
            kind = "GenericError"
            if isinstance(error, QmpError):
                kind = error.kind
            else:
                self._log.error("QMP: unexpected error", exc_info=error)
            self._send({"error": {"class": kind, "desc": str(error)}} | ident)
        self._commands.answered()


def _decoded(message: bytes | None) -> dict[str, Any]:
    """The request as an object. Raises `QmpError`."""
    if message is None:
        raise QmpError("JSON parse error, the request is too long or too deep")
    try:
        request = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QmpError(f"JSON parse error, {error}") from None
    if not isinstance(request, dict):
        raise QmpError("QMP input must be a JSON object")
    return request
