"""One client of the control socket: its requests, some at once, each answered when it is done."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.hosts.control.messages import (
    Code,
    Id,
    Lines,
    Refused,
    Request,
    failure,
    parse,
    success,
)
from drivebay.hosts.stream import Peer
from drivebay.platform.engine import Engine, Task
from drivebay.platform.logs import RationedLog
from drivebay.suspend import Cancelled

__all__ = ["Method", "Session"]

log = logging.getLogger(__name__)

LINES_A_TURN: Final = 8
"""After so many the devices of the engine have their turn."""
MOST_AT_ONCE: Final = 16
"""Requests of a client that are under way; the next ones wait in its socket."""


class Method(NamedTuple):
    """What a method's parameters are, and what does it: it returns the result, or a coroutine."""

    params: type[msgspec.Struct]
    call: Callable[[Any], object]


class Session:
    """The requests of `peer`, done on the engine's thread."""

    def __init__(self, methods: Mapping[str, Method], engine: Engine, peer: Peer) -> None:
        self._methods, self._engine, self._peer = methods, engine, peer
        self._lines = Lines()
        self._queue: deque[bytes | None] = deque()
        self._under_way: dict[int, Task | None] = {}
        self._started = 0
        self._stuffed = False  # the peer does not take its answers: it may ask when it has
        self._log = RationedLog(log)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer."""
        self._queue += self._lines.receive(data)
        self._work()

    def room(self) -> None:
        """The peer has taken its answers."""
        self._stuffed = False
        self._work()

    def hung_up(self) -> None:
        """The peer has gone. What it began goes on; what it asked for and waits is forgotten."""
        self._queue.clear()

    def cancel(self) -> None:
        """Give up what is under way, as far as it can be."""
        self._queue.clear()
        for task in tuple(self._under_way.values()):
            if task is not None:
                task.cancel()

    def _work(self) -> None:
        for _ in range(LINES_A_TURN):
            if not self._queue or self._must_wait:
                break
            self._line(self._queue.popleft())
        if self._queue and not self._must_wait:
            self._engine.later(self._work)
        self._peer.listen(not self._queue and not self._must_wait)

    @property
    def _must_wait(self) -> bool:
        return self._stuffed or len(self._under_way) >= MOST_AT_ONCE

    # -- requests --------------------------------------------------------------------------------

    def _line(self, line: bytes | None) -> None:
        request, ident, wrong = parse(line)
        if request is None:
            assert wrong is not None
            self._send(failure(ident, wrong))
            return
        answer = partial(self._answer, request)
        try:
            found = self._call(request)
        except Exception as error:
            answer(None, error)
            return
        if not isinstance(found, Coroutine):
            answer(found, None)
            return
        self._started += 1
        number = self._started
        self._under_way[number] = None

        def done(value: Any, error: BaseException | None) -> None:
            del self._under_way[number]
            answer(value, error)
            if self._queue or not self._under_way:
                self._engine.later(self._work)

        task = self._engine.start(found, done)
        if number in self._under_way:
            self._under_way[number] = task

    def _call(self, request: Request) -> object:
        """Raises `Refused`, or what the method raises."""
        method = self._methods.get(request.method)
        if method is None:
            name = request.method[:80]
            raise Refused(f"there is no method {name}", "ask for methods", Code.METHOD_NOT_FOUND)
        try:
            params = msgspec.json.decode(request.params, type=method.params)
        except (msgspec.DecodeError, RecursionError) as error:
            wanted = ", ".join(method.params.__struct_fields__) or "none"
            raise Refused(
                f"{request.method}: {error}", f"its parameters: {wanted}", Code.INVALID_PARAMS
            ) from None
        return method.call(params)

    def _answer(self, request: Request, value: Any, error: BaseException | None) -> None:
        ident: Id | msgspec.UnsetType = request.id
        if error is not None:
            refused = self._told(request.method, error)
        if ident is msgspec.UNSET:
            return
        self._send(success(ident, value) if error is None else failure(ident, refused))

    def _told(self, method: str, error: BaseException) -> Refused:
        if isinstance(error, Refused):
            return error
        if isinstance(error, DiskError | DiskOpenError):
            return Refused(str(error), getattr(error, "hint", ""))
        if isinstance(error, Cancelled):
            return Refused(f"{method}: given up", "the server ends")
        self._log.error("control: unexpected error in %s", method, exc_info=error)
        return Refused(f"{method}: {error!r}", "this is a bug of ours", Code.INTERNAL_ERROR)

    def _send(self, line: bytes) -> None:
        self._stuffed = not self._peer.send(line)
