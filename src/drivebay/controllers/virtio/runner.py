"""What every virtio device does with a queue: drain it, run its requests, give them back, stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from drivebay.controllers.virtio.ring import Queue, Rows
from drivebay.platform.engine import Done, Engine, Task
from drivebay.platform.virtio import RingError, Stopped
from drivebay.suspend import Suspension

__all__ = ["Runner", "Serve"]

log = logging.getLogger(__name__)

BATCH: Final = 16
"""Requests between two looks at the driver: it may go on with these while we do the next."""


class Cancellable(Protocol):
    """What may be given up."""

    def cancel(self) -> object:
        """Give it up, if that can be: then, at once or later, it drops its chain."""


class Lost:
    """A chain whose request has ended, and which is not given back."""

    def __init__(self, runner: Runner, head: int) -> None:
        self._runner, self._head = runner, head

    def cancel(self) -> None:
        """Forget it."""
        self._runner.drop(self._head)


class Runner:
    """Runs one queue, the device's `index`-th, on an engine.

    `serve` is called with the runner and each chain. It returns the bytes written, or None if it
    gave the chain's operation to `park`, or what can cancel it to `hold`: then `finish` or `drop`
    is called when that has ended.
    `broken` is called if the driver breaks a rule of the ring; the queue is then left alone until
    it is stopped.
    """

    def __init__(
        self,
        engine: Engine,
        queue: Queue,
        serve: Serve,
        broken: Callable[[RingError], None],
        index: int = 0,
    ) -> None:
        self.queue, self.index = queue, index
        self._engine = engine
        self._broken = broken
        self._serve = serve
        self._tasks: dict[int, Cancellable] = {}
        queue.held = self._tasks
        self._draining = self._publishing = self._closed = self._going_on = False
        self._asleep = False  # while its ring is in no memory
        self._late: list[int] = []  # what ends meanwhile: head and written in turn
        self.held = False
        """Nothing is taken for now: it is there for `drain` later."""
        self._stopped: Stopped | None = None

    # -- serving ---------------------------------------------------------------------------------

    def drain(self) -> None:
        """Serve what the driver has made available: at most a ring full, then let others run."""
        if self._closed or self._draining or self._asleep or self.held:
            return
        queue, serve = self.queue, self._serve
        done: list[int] = []
        left = queue.size
        self._draining = True
        try:
            queue.disarm()
            while left > 0:
                for head, rows in queue.chains():
                    written = serve(self, head, rows)
                    if written is not None:
                        done += (head, written)
                    left -= 1
                    if not left % BATCH:
                        self._give_back(done)
                        if self._closed:  # the interrupt made the driver stop us
                            return
                        if not left:
                            break
                self._give_back(done)
                if self._closed:
                    return
                if not queue.waiting() and not self._linger() and queue.arm():
                    return
                left -= 1  # a ring that shows work and gives none must not keep us
            if not self._going_on:  # once a turn, however often we are kicked
                self._going_on = True
                self._engine.later(self._go_on)
        except RingError as error:
            self._give_back(done)  # what came before the broken chain was served
            self.fail(error)
        finally:
            self._draining = False

    def serve_some(self, count: int) -> None:
        """Serve at most `count` chains, where the others are not to be taken yet. If there are
        fewer, the driver is asked to say when there is another.
        """
        if self._closed or self._draining or self._asleep:
            return
        done: list[int] = []
        self._draining = True
        try:
            for _ in range(self.queue.size):  # one may come whenever we ask for it
                for head, rows in self.queue.chains():
                    written = self._serve(self, head, rows)
                    if written is not None:
                        done += (head, written)
                    count -= 1
                    if not count:
                        break
                self._give_back(done)
                if not count or self._closed or self.queue.arm():
                    break
        except RingError as error:
            self._give_back(done)
            self.fail(error)
        finally:
            self._draining = False

    def _linger(self) -> bool:
        """Whether a chain came while we waited for one. With some in flight others must run."""
        return not self._tasks and self.queue.linger(self.queue.waiting)

    def _go_on(self) -> None:
        self._going_on = False
        self.drain()

    def _give_back(self, done: list[int]) -> None:
        if done:
            self.queue.push_all(done)
            done.clear()
            self.queue.publish()

    def park(
        self,
        head: int,
        operation: Coroutine[Any, Any, Any],
        suspension: Suspension[Any],
        done: Done,
    ) -> None:
        """The operation of the chain `head` must wait; `done` ends it with `finish` or `drop`."""
        self._tasks[head] = Task(self._engine, operation, done, suspension)

    def hold(self, head: int, operation: Cancellable) -> None:
        """Somebody else runs the operation of the chain `head`, who ends it with `finish` or
        `drop`.
        """
        self._tasks[head] = operation

    def lose(self, head: int) -> None:
        """The operation of a chain has ended, but it is not given back before the queue is stopped:
        no device does that.
        """
        if self._closed:
            self.drop(head)
        else:
            self._tasks[head] = Lost(self, head)

    def finish(self, head: int, written: int) -> None:
        """Give a chain back whose operation had to wait."""
        if self._asleep:
            self._late += (head, written)
        else:
            self.queue.push(head, written)
        if not self._publishing:
            self._publishing = True
            self._engine.at_end_of_turn(self._publish)
        self.drop(head)

    def repeat(self, head: int, written: int) -> None:
        """Give a chain back that is given back again: no device does that."""
        if not self._asleep:
            self.queue.repeat(head, written)

    def drop(self, head: int) -> None:
        """Forget a chain: it has ended, or was cancelled."""
        self._tasks.pop(head, None)
        if self._closed:
            self._look_stopped()

    def _publish(self) -> None:
        self._publishing = False
        if not self._asleep:
            self.queue.publish()

    def fail(self, error: RingError) -> None:
        """Leave the queue alone until it is stopped."""
        if not self._closed:
            self._closed = True
            self._broken(error)

    @property
    def state(self) -> dict[str, int]:
        """The queue's, and how many of its chains are under way."""
        return {**self.queue.state, "under-way": len(self._tasks)}

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way, and all that was given back is told."""
        return not self._tasks and not self._publishing

    # -- stopping --------------------------------------------------------------------------------

    def remap(self) -> bool:
        """Guest memory was laid out anew. A ring that is nowhere in it sleeps until it is again: a
        front end changes a region by taking it away and adding it. Whether it has slept until now:
        kicks were not heeded.
        """
        try:
            self.queue.remap()
        except RingError as error:
            log.debug("virtio: a queue sleeps: %s", error)
            self._asleep = True
            self.queue.let_go()
            return False
        if not self._asleep:
            return False
        self._asleep = False
        late, self._late = self._late, []
        if late:
            self.queue.push_all(late)
        self.queue.publish()
        return True

    def stop(self, stopped: Stopped, *, cancel: bool) -> None:
        """Serve no more; call `stopped` when nothing is in flight."""
        self._closed = True
        self._stopped = stopped
        for task in tuple(self._tasks.values()):
            if cancel or isinstance(task, Lost):
                task.cancel()
        self._look_stopped()

    def cancel(self) -> None:
        """Give up what waits, where it can be given up."""
        for task in tuple(self._tasks.values()):
            task.cancel()

    def _look_stopped(self) -> None:
        if not self._tasks and self._stopped is not None:
            stopped, self._stopped = self._stopped, None
            self._publish()
            stopped(self.queue.position)


Serve = Callable[[Runner, int, Rows], int | None]
