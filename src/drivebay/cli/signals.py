"""Signals as callbacks, around an engine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from drivebay.platform.engine import Engine

__all__ = ["signals"]


@contextlib.contextmanager
def signals(engine: Engine, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have signals call back; afterwards they are ignored, for the end must not be cut short.

    Python runs a handler between two instructions: the pipe makes sure that there is a next one.
    """
    receive, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake() -> None:
        os.read(receive, 4096)

    engine.watch(receive, wake)
    signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    for number, call in handlers.items():
        signal.signal(number, lambda *_, call=call: call())
    try:
        yield
    finally:
        for number in handlers:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        engine.unwatch(receive)
        os.close(receive)
        os.close(send)
