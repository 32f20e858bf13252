"""What a coroutine may await: the only words between a disk's ``async def`` and an engine.

Most disk operations never wait: the engine's first step runs them to their end. One that must wait
awaits a `Suspension`; whoever drives the coroutine calls its `begin` and resumes the coroutine when
`begin`'s callback fires. There is no event loop in this: `run` below is a complete driver.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

__all__ = [
    "DONE",
    "Blocking",
    "Cancelled",
    "Gate",
    "Lock",
    "Promise",
    "Resume",
    "Suspension",
    "Turn",
    "Workers",
    "blocking",
    "perform",
    "run",
    "sleep",
    "together",
]

log = logging.getLogger(__name__)

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


class Promise(Suspension[T]):
    """A result that somebody gives once, on any thread, before or while one coroutine awaits it."""

    def __init__(self) -> None:
        # Of the two that meet here, the awaiter and the giver, the second to come resumes.
        self._meeting = threading.Lock()
        self._resume: Resume | None = None
        self._given: tuple[Any, BaseException | None] | None = None
        self.abandoned = False
        """Nobody awaits it any more."""

    def give(self, value: T, error: BaseException | None = None) -> None:
        """End the wait with `value`, or by raising `error`. What comes after the first is lost."""
        with self._meeting:
            if self._given is not None:
                return
            self._given = value, error
            resume = self._resume
        if resume is not None:
            resume(value, error)

    def fail(self, error: BaseException) -> None:
        """End the wait by raising `error`."""
        self.give(None, error)  # type: ignore[arg-type]

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Wait for `give`."""
        with self._meeting:
            self._resume = resume
            given = self._given
        if given is not None:
            resume(*given)

    def cancel(self) -> bool:
        """Give up, unless the result is there."""
        with self._meeting:
            self.abandoned = self._given is None
        return self.abandoned


class _Clock:
    """One thread, from the first wait on, that keeps promises when they are due."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Promise[None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def at(self, due: float, promise: Promise[None]) -> None:
        with self._changed:
            heapq.heappush(self._due, (due, next(self._order), promise))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="drivebay-clock", daemon=True
                )
                self._thread.start()
            elif self._due[0][2] is promise:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                while not self._due or self._due[0][0] > now:
                    self._changed.wait(self._due[0][0] - now if self._due else None)
                    now = time.monotonic()
                _, _, promise = heapq.heappop(self._due)
            try:
                promise.give(None)
            except Exception:  # one that fails is no reason to keep all others waiting for ever
                log.exception("unexpected error at the end of a sleep")
            del promise  # else what awaited it lives until the next is due


_CLOCK: Final = _Clock()


class Turn(Suspension[None]):
    """Lets others have their turn; between two steps of long work that waits for nobody."""

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Go on in the next turn."""
        resume(None, None)

    def cancel(self) -> bool:
        """Go on no more."""
        return True


def sleep(seconds: float) -> Promise[None]:
    """What ends in `seconds`, from now; it can be given up at any time.

    Of an engine's timers none ends a wait of less than a millisecond; this does.
    """
    promise = Promise[None]()
    _CLOCK.at(time.monotonic() + seconds, promise)
    return promise


class Lock:
    """``async with lock:`` one coroutine of the engine at a time, first come, first served."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: deque[Promise[None]] = deque()

    @property
    def held(self) -> bool:
        """Somebody is inside."""
        return self._held

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        turn = Promise[None]()
        self._waiting.append(turn)
        try:
            await turn  # whoever leaves hands the lock over: it is never free in between
        except BaseException:
            if not turn.cancel():
                self._leave()
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._leave()

    def _leave(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.abandoned:
                turn.give(None)
                return
        self._held = False


class Gate:
    """Changes side by side, or one that must be alone::

        async with gate:            # beside others
        async with gate.alone():    # none is under way, and those that come wait

    Whoever waited for one that was alone goes in when it leaves, before the next can be alone.
    """

    def __init__(self) -> None:
        self.inside = 0
        """How many are, beside each other."""
        self.entered = 0
        """How many ever were."""
        self._alone = Lock()
        self._waiting: list[Promise[None]] | None = None
        self._empty: Promise[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether somebody is alone, or waits for the others to leave."""
        return self._waiting is not None

    async def __aenter__(self) -> None:
        if self._waiting is None:
            self._enter()
            return
        turn = Promise[None]()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if not turn.cancel():
                self._leave()
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._leave()

    def _enter(self) -> None:
        self.inside += 1
        self.entered += 1

    def _leave(self) -> None:
        self.inside -= 1
        if self._empty is not None and not self.inside:
            self._empty.give(None)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """For one that wants no other inside."""
        async with self._alone:
            self._waiting = []
            try:
                if self.inside:
                    self._empty = Promise()
                    await self._empty
                yield
            finally:
                waiting, self._waiting, self._empty = self._waiting, None, None
                for turn in waiting:
                    if not turn.abandoned:
                        self._enter()  # for it: it is inside before it knows
                        turn.give(None)


class _Group(Suspension[None]):
    """Coroutines side by side; it ends a wait whenever some of them can go on."""

    def __init__(self) -> None:
        self._waiting: dict[Suspension[Any], Coroutine[Any, Any, Any]] = {}
        self._fresh: list[Suspension[Any]] = []
        self._ready: deque[tuple[Suspension[Any], Any, BaseException | None]] = deque()
        self._wake: Promise[None] = Promise()
        self.failure: BaseException | None = None

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def step(
        self,
        coroutine: Coroutine[Any, Any, Any],
        value: Any = None,
        error: BaseException | None = None,
    ) -> None:
        try:
            suspension = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return
        except (Exception, Cancelled) as failure:
            self.failure = self.failure or failure
        else:
            self._waiting[suspension] = coroutine
            self._fresh.append(suspension)

    def step_ready(self) -> None:
        self._wake = Promise()
        while self._ready:
            suspension, value, error = self._ready.popleft()
            if suspension in self._waiting:  # a wait that was given up may end all the same
                self.step(self._waiting.pop(suspension), value, error)

    def begin(self, workers: Workers, resume: Resume) -> None:
        fresh, self._fresh = self._fresh, []
        for suspension in fresh:
            ended = self._ender(suspension)
            try:
                suspension.begin(workers, ended)
            except Exception as error:
                ended(None, error)
        self._wake.begin(workers, resume)

    def _ender(self, suspension: Suspension[Any]) -> Resume:
        def ended(value: Any, error: BaseException | None) -> None:
            self._ready.append((suspension, value, error))
            self._wake.give(None)

        return ended

    def cancel(self) -> bool:
        for suspension, coroutine in reversed(tuple(self._waiting.items())):
            if suspension.cancel():
                del self._waiting[suspension]
                self.step(coroutine, error=Cancelled())
        if self._fresh:  # what was cancelled cleans up, and waits for that
            self._wake.give(None)
        return not self._waiting and self._wake.cancel()


async def together(operations: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Do `operations` side by side. Raises the first error, when all of them have ended."""
    group = _Group()
    for operation in operations:
        group.step(operation)
    while group:
        await group
        group.step_ready()
    if group.failure is not None:
        raise group.failure


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
