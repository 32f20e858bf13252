"""A disk served to one client by a thread of ours."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Protocol, Self

from drivebay.hosts.listening import listen
from drivebay.platform.engine import Engine

__all__ = ["Serving"]

LAST_SECONDS: Final = 10.0


class _Server(Protocol):
    @property
    def connected(self) -> bool:
        """Whether a client is there, or something of its under way."""

    def close(self) -> None:
        """Serve no more."""


class Serving:
    """What `make` makes of an engine and a listener at `path`, at work while it is entered."""

    def __init__(self, make: Callable[[Engine, socket.socket], _Server]) -> None:
        self._make = make
        self._running = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="drivebay-")
        self.path = os.path.join(self._folder.name, "socket")
        self.engine = Engine()
        self._server = self._make(self.engine, listen(self.path))
        self._thread = threading.Thread(target=self.engine.run, name="drivebay-serving")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.engine.stop()
        self._thread.join()
        self.engine.turn(0)  # what was asked for last
        self._server.close()
        self.engine.run_until(lambda: not (self._running or self._server.connected), LAST_SECONDS)
        self.engine.close()
        self._folder.cleanup()
        if self._failure is not None and error is None:
            raise self._failure

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it on the engine's thread. Who leaves waits for it, and is told what it raised."""

        def begin() -> None:
            self._running += 1
            self.engine.start(coroutine, self._ended)

        self.engine.later(begin)

    def _ended(self, _value: None, error: BaseException | None) -> None:
        self._running -= 1
        self._failure = self._failure or error
