"""What a coroutine may await: the only words between a disk's ``async def`` and an engine.

Most disk operations never wait: the engine's first step runs them to their end. One that must wait
awaits a `Suspension`; whoever drives the coroutine calls its `begin` and resumes the coroutine when
`begin`'s callback fires. There is no event loop in this: `run` below is a complete driver.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = [
    "DONE",
    "Blocking",
    "Cancelled",
    "Resume",
    "Suspension",
    "Workers",
    "blocking",
    "perform",
    "run",
]

T = TypeVar("T")

Resume = Callable[[Any, BaseException | None], None]
"""Ends a suspension, once, with a result or an exception. May be called on any thread."""


class _Done(Coroutine[Any, Any, None]):
    """A coroutine that has ended well."""

    def send(self, value: Any) -> None:
        raise StopIteration

    def throw(self, *error: Any) -> None:
        raise error[0]

    def close(self) -> None:
        pass

    def __await__(self) -> Generator[Any, Any, None]:
        return iter(())  # type: ignore[return-value]


DONE: Final = _Done()
"""What an operation may return in place of a coroutine if it has done all there is to do: it can be
awaited and driven like any other, and whoever looks for it saves the making of one.
"""


class Cancelled(BaseException):
    """Thrown into a coroutine whose device was reset. Like `asyncio.CancelledError`, not caught by
    ``except Exception``.
    """


class Workers(Protocol):
    """Where blocking calls go: the engine's threads, or in `run` the caller's own."""

    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        """Run `call` somewhere it may block, then `resume` with what came of it."""


class Suspension(Generic[T]):
    """A wait that its subclass knows how to begin."""

    def __await__(self) -> Generator[Suspension[T], T, T]:
        return (yield self)

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Start waiting; `resume` ends it."""
        raise NotImplementedError

    def cancel(self) -> bool:
        """Give up if that can be done at once; False if the wait must run to its end."""
        return False


class Blocking(Suspension[T]):
    """A call that may block, made on a worker thread. It can be given up until a worker has it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._calls = [call]  # whoever pops it has it: the worker, or `cancel`

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Hand the call to a worker."""
        workers.submit(self._perform, resume)

    def _perform(self) -> T:
        try:
            call = self._calls.pop()
        except IndexError:
            raise Cancelled from None
        return call()

    def cancel(self) -> bool:
        """Give up the call, if no worker has begun it."""
        try:
            self._calls.pop()
        except IndexError:
            return False
        return True


def blocking(call: Callable[[], T]) -> Blocking[T]:
    """Await the result of `call`, made where it may block::

    await blocking(lambda: os.fdatasync(fd))
    """
    return Blocking(call)


def perform(call: Callable[[], Any], resume: Resume) -> None:
    """Make `call` here and now, then `resume` with what came of it."""
    try:
        value = call()
    except BaseException as error:
        resume(None, error)
    else:
        resume(value, None)


class _Inline:
    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        perform(call, resume)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive `coroutine` to its end on this thread, for tools and tests; blocking calls block here.

    Raises what the coroutine raises.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            suspension = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        done = threading.Event()
        outcome: list[tuple[Any, BaseException | None]] = []

        def resume(
            result: Any,
            failure: BaseException | None,
            outcome: list[tuple[Any, BaseException | None]] = outcome,
            done: threading.Event = done,
        ) -> None:
            outcome.append((result, failure))
            done.set()

        suspension.begin(_Inline(), resume)
        done.wait()
        value, error = outcome[0]
