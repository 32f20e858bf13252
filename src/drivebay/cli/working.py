"""Long work on disks: many operations in flight, and word of how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from drivebay.cli.terminal import progress
from drivebay.disk.tree import size_text

__all__ = ["Told", "work"]

T = TypeVar("T")

WORKERS: Final = 8
PATIENCE: Final = 2.0
"""Seconds before anything is said."""
EVERY: Final = 5.0
"""Seconds between two lines."""


def work(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, with as many threads as it may wait for at once."""
    from drivebay.platform.engine import Engine

    engine = Engine(WORKERS)
    ended: list[tuple[Any, BaseException | None]] = []

    def done(value: Any, error: BaseException | None) -> None:
        ended.append((value, error))
        engine.stop()

    try:
        engine.start(coroutine, done)
        engine.run()
    finally:
        engine.close()
    [(value, error)] = ended
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


class Told:
    """Says on standard error how far `what` is, if it takes long: a bar, or a line now and then.

    It is called with the bytes that are done of `total`, a part at a time.
    """

    def __init__(self, what: str, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._total, self._clock = what, total, clock
        self._done = 0
        self._next = clock() + PATIENCE
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int) -> None:
        """`done` more bytes."""
        self._done += done
        if self._bar is not None:
            self._bar.update(0, completed=self._done)
        elif self._clock() >= self._next:
            self._say()

    def _say(self) -> None:
        if sys.stderr.isatty():
            self._bar = _bar(self._what, self._total)
        if self._bar is None:
            share = self._done * 100 // max(self._total, 1)
            progress(f"{self._what}: {share} % of {size_text(self._total)}")
            self._next = self._clock() + EVERY


def _bar(what: str, total: int) -> Any:
    """A bar of rich, or None without it."""
    try:
        from rich import progress as bars
        from rich.console import Console
    except ImportError:
        return None
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    bar = bars.Progress(*columns, console=Console(stderr=True), transient=True)
    bar.add_task(what, total=total)
    bar.start()
    return bar
