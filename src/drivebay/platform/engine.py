"""The engine: one thread on which devices run, without locks and without an event loop's costs.

A turn takes what is ready (file descriptors, results from workers, timers), calls whoever waits for
it, and ends with the callbacks that asked for the end of the turn, so that a device can gather the
completions of a turn into one interrupt. Coroutines are driven directly: most disk operations end
in their first step and cost no more than a call.

Nothing but `later`, `submit`'s result and `stop` may be called from another thread.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from drivebay.suspend import Cancelled, Resume, Suspension, perform

__all__ = ["LONG_MOMENT", "Done", "Engine", "Linger", "Lookout", "Task", "Timer"]

log = logging.getLogger(__name__)

Done = Callable[[Any, BaseException | None], None]
"""Told the end of a coroutine: its result, or what it raised."""

Linger = Callable[[Callable[[], bool]], bool]
"""Waits a moment for whether what it is given says yes; a `Lookout`."""

Callback = Callable[[], None]

MAX_WORKERS: Final = 256
STUCK_SECONDS: Final = 0.02

# Of a lookout. Seconds it takes; seconds without the CPU that tell that others use it, and the part
# of it that they may have; and how many times it is left out at most.
MOMENT: Final = 64e-6
GAP: Final = 10e-6
GIVEN_AWAY: Final = 0.25
MOST_LEFT_OUT: Final = 63

LONG_MOMENT: Final = 1e-3
"""Of a lookout for what an emulated guest does next: hundreds of microseconds pass until then."""


class Task:
    """A coroutine that waits: it has taken its first step, which ended in `suspension`."""

    __slots__ = ("_coroutine", "_done", "_engine", "_suspension", "since")

    def __init__(
        self,
        engine: Engine,
        coroutine: Coroutine[Any, Any, Any],
        done: Done,
        suspension: Suspension[Any],
    ) -> None:
        self._engine, self._coroutine, self._done = engine, coroutine, done
        self._suspension: Suspension[Any] | None = None
        self.since = time.monotonic()
        """When it began to wait, by the engine's clock."""
        self._begin(suspension)

    def _begin(self, suspension: Suspension[Any]) -> None:
        """Wait. A wait that cannot begin ends with what it raised: the coroutine must be told."""
        self._suspension = suspension
        resume = self._engine.resumer(partial(self._step, suspension))
        try:
            suspension.begin(self._engine, resume)
        except Exception as error:
            resume(None, error)

    def _step(self, suspension: Suspension[Any], value: Any, error: BaseException | None) -> None:
        """Late or twice: only the wait it belongs to is ended by it."""
        if suspension is not self._suspension:
            return
        self._suspension = None
        try:
            send = self._coroutine
            following = send.send(value) if error is None else send.throw(error)
        except StopIteration as stop:
            self._done(stop.value, None)
        except (Exception, Cancelled) as failure:
            self._done(None, failure)
        else:
            self._begin(following)

    def cancel(self) -> bool:
        """End the coroutine now, with `Cancelled`, if what it waits for can be given up.

        Returns False if it cannot (a system call is under way): it will end by itself.
        """
        suspension = self._suspension
        if suspension is None or not suspension.cancel():
            return False
        self._step(suspension, None, Cancelled())
        return True


class Timer:
    """A callback that is due at some time, unless cancelled."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not call it."""
        self.callback = None


class Lookout:
    """Looks for what comes without waking us, for `moment` seconds, before its owner sleeps.

    Where a halted CPU must be woken, to sleep and be woken takes as long as ten requests. To look
    out pays if mostly something comes and nobody else wants the CPU. Whenever it did not pay, it is
    left out the next times: 3, 15, 63... and a quarter as often again whenever it did.
    """

    def __init__(self, engine: Engine, moment: float = MOMENT) -> None:
        self._engine, self._moment = engine, moment
        self._left_out = self._leave_out = 0

    def __call__(self, came: Callable[[], bool]) -> bool:
        """Whether something came."""
        if self._left_out < self._leave_out:
            self._left_out += 1
            return False
        self._left_out = 0
        if self._engine.has_callbacks:
            return came()
        given_away = 0.0
        started = before = time.perf_counter()
        while before - started < self._moment:
            os.sched_yield()
            now = time.perf_counter()
            if now - before > GAP:  # somebody else was there
                given_away += now - before
                if given_away > GIVEN_AWAY * self._moment:
                    break
            if came():
                self._leave_out //= 4
                return True
            if self._engine.has_more_to_do:
                return False
            before = now
        self._leave_out = min(4 * self._leave_out + 3, MOST_LEFT_OUT)
        return came()


class Engine:
    """One thread's worth of devices.

    `workers` threads take the calls that may block, and more of them while all are stuck; with 0
    the calls block the engine, which suits tests and emulators that want no threads.
    """

    def __init__(self, workers: int = 4) -> None:
        self._epoll = select.epoll()
        self._peek = select.poll()
        self._peek.register(self._epoll, select.POLLIN)
        self._callbacks: dict[int, Callback] = {}
        self._ready: list[tuple[int, int]] = []
        self._posted: deque[Callback] = deque()
        self._end_of_turn: list[Callback] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_order = itertools.count()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._close_wake = weakref.finalize(self, os.close, self._wake)
        self._woken = False
        self._closing = threading.RLock()  # a signal's handler may call `stop` wherever we are
        self._stopping = False
        self._workers = workers
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Resume] | None] = SimpleQueue()
        self._jobs_taken = 0
        self._watching_jobs = False
        self._threads: list[threading.Thread] = []
        self.watch(self._wake, self._on_wake)

    # -- coroutines ------------------------------------------------------------------------------

    def start(self, coroutine: Coroutine[Any, Any, Any], done: Done) -> Task | None:
        """Run `coroutine`; `done` is told its end. Returns None if it ended in its first step.

        A hot path may take the first step itself and make a `Task` only if that does not end it.
        """
        try:
            suspension = coroutine.send(None)
        except StopIteration as stop:
            done(stop.value, None)
        except Exception as error:
            done(None, error)
        else:
            return Task(self, coroutine, done, suspension)
        return None

    def resumer(self, step: Resume) -> Resume:
        """What any thread may call to have `step` called in a turn."""

        def resume(value: Any, error: BaseException | None) -> None:
            self.later(lambda: step(value, error))

        return resume

    def submit(self, call: Callable[[], Any], resume: Resume) -> None:
        """Make a call that may block on a worker thread; `resume` is told what came of it there."""
        if not self._workers:
            perform(call, resume)
            return
        self._jobs.put((call, resume))
        if len(self._threads) < self._workers:
            self._add_worker()
        elif not self._watching_jobs and self._jobs.qsize():
            self._watch_jobs()

    def _add_worker(self) -> None:
        name = f"drivebay-worker-{len(self._threads)}"
        self._threads.append(threading.Thread(target=self._work, name=name, daemon=True))
        self._threads[-1].start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._jobs_taken += 1
            perform(*job)

    def _watch_jobs(self) -> None:
        """Look again soon whether jobs wait and none is taken: one dead disk must not be able to
        keep all workers from the others.
        """
        self._watching_jobs = True
        taken = self._jobs_taken

        def look() -> None:
            self._watching_jobs = False
            if self._jobs.qsize():
                if self._jobs_taken == taken and len(self._threads) < MAX_WORKERS:
                    self._add_worker()
                self._watch_jobs()

        self.after(STUCK_SECONDS, look)

    # -- what a turn waits for -------------------------------------------------------------------

    def watch(self, fd: int, callback: Callback, *, edge: bool = False) -> None:
        """Call `callback` whenever `fd` is readable or has hung up.

        With `edge` it is called once for each time something arrives: an eventfd need not be read.
        """
        events = select.EPOLLIN | select.EPOLLRDHUP
        self._epoll.register(fd, events | select.EPOLLET if edge else events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching `fd`, before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, callback: Callback) -> None:
        """Call `callback` in the next turn. Any thread may ask, also of an engine that is closed:
        that has no next turn.
        """
        self._posted.append(callback)
        if not self._woken:
            self._woken = True
            with self._closing:  # once closed, the number may be another file's
                if self._close_wake.alive:
                    os.eventfd_write(self._wake, 1)

    def at_end_of_turn(self, callback: Callback) -> None:
        """Call `callback` when this turn's work is done."""
        self._end_of_turn.append(callback)

    @property
    def now(self) -> float:
        """Seconds, by the clock of the timers."""
        return time.monotonic()

    def after(self, seconds: float, callback: Callback) -> Timer:
        """Call `callback` in `seconds`."""
        timer = Timer(callback)
        due = time.monotonic() + seconds
        heapq.heappush(self._timers, (due, next(self._timer_order), timer))
        return timer

    def _on_wake(self) -> None:
        os.eventfd_read(self._wake)
        self._woken = False  # before taking the posts: one that comes now wakes us again
        for _ in range(len(self._posted)):
            self._call(self._posted.popleft())

    def _call_due_timers(self) -> None:
        now = time.monotonic()  # once: a timer that sets the next is no reason to stay here
        while self._timers:
            due, _, timer = self._timers[0]
            if due > now and timer.callback is not None:
                return
            heapq.heappop(self._timers)
            if timer.callback is not None:
                self._call(timer.callback)

    # -- turns -----------------------------------------------------------------------------------

    def turn(self, timeout: float = -1) -> None:
        """Wait up to `timeout` seconds (below 0: for ever), then do all that is ready."""
        if self._end_of_turn:
            timeout = 0
        elif self._timers:
            wait = max(self._timers[0][0] - time.monotonic(), 0)
            timeout = wait if timeout < 0 else min(wait, timeout)
        ready = self._ready = self._epoll.poll(timeout)
        ready.reverse()  # what came first is popped first: a hang-up before the next connection
        while ready:
            fd, _ = ready.pop()
            callback = self._callbacks.get(fd)  # an earlier callback may have unwatched it
            if callback is not None:
                self._call(callback)
        if self._timers:
            self._call_due_timers()
        while self._end_of_turn:
            callbacks, self._end_of_turn = self._end_of_turn, []
            for callback in callbacks:
                self._call(callback)

    def fileno(self) -> int:
        """A descriptor that is readable when a turn has something to do, but for what `due` tells:
        for who waits in one thread and takes turns in several, one at a time.
        """
        return self._epoll.fileno()

    @property
    def due(self) -> float:
        """When a turn has something to do, by `now`: 0 if it has already, infinite if never, as far
        as no descriptor becomes readable.
        """
        if self._end_of_turn or self._posted:
            return 0.0
        return self._timers[0][0] if self._timers else math.inf

    @property
    def has_callbacks(self) -> bool:
        """Whether this turn is not done with the callback that asks."""
        return bool(self._ready or self._end_of_turn)

    @property
    def has_more_to_do(self) -> bool:
        """Whether somebody would have to wait if the callback that asks took its time."""
        return self.has_callbacks or bool(self._peek.poll(0))

    def _call(self, callback: Callback) -> None:
        """One callback that fails is a bug of ours, and no reason to stop the others."""
        try:
            callback()
        except Exception:
            log.exception("unexpected error in %r", callback)

    def run(self) -> None:
        """Take turns until `stop`, be it called before."""
        while not self._stopping:
            self.turn()
        self._stopping = False

    def run_until(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Take turns until `condition` holds or `timeout` seconds have passed; whether it holds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.turn(min(left, 0.1))
        return True

    def stop(self) -> None:
        """End `run` after this turn, or before its first. Any thread may ask."""
        self._stopping = True
        self.later(lambda: None)

    def close(self) -> None:
        """Let go of the threads and descriptors."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._epoll.close()
        with self._closing:
            self._close_wake()
