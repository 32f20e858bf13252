"""Signals as callbacks, around an engine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

from drivebay.platform.engine import Engine

__all__ = ["signals"]


@contextlib.contextmanager
def signals(engine: Engine, handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have signals call back; afterwards they are ignored, for the end must not be cut short.

    After an exception they are as they were.

    Python runs a handler between two instructions: the pipe makes sure that there is a next one.
    """
    receive, send = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def wake() -> None:
        os.read(receive, 4096)

    engine.watch(receive, wake)
    signal.set_wakeup_fd(send, warn_on_full_buffer=False)
    before = {
        number: signal.signal(number, lambda *_, call=call: call())
        for number, call in handlers.items()
    }
    afterwards: dict[signal.Signals, Any] = dict.fromkeys(handlers, signal.SIG_IGN)
    try:
        yield
    except BaseException:
        afterwards = before
        raise
    finally:
        for number, handler in afterwards.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        engine.unwatch(receive)
        os.close(receive)
        os.close(send)
