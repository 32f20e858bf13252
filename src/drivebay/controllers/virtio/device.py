"""What every virtio device is: features, and queues that are started, kicked and stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Final

from drivebay.controllers.virtio.packed import PackedQueue
from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.ring import Rows
from drivebay.controllers.virtio.runner import Runner, Serve
from drivebay.controllers.virtio.split import SplitQueue
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.virtio import QueueSetup, RingError, Stopped, Transport

__all__ = ["QUEUE_SIZE", "RingDevice", "mask"]

QUEUE_SIZE: Final = 256
MAX_QUEUE_SIZE: Final = 1024
MAX_QUEUES: Final = 64


def mask(*features: IntEnum) -> int:
    """The feature bits of `features`."""
    return sum(1 << feature for feature in features)


RING_FEATURES: Final = mask(RingFeature.INDIRECT_DESC, RingFeature.EVENT_IDX, RingFeature.VERSION_1)


def silence() -> None:
    """Where an interrupt goes that nobody shall hear."""


class RingDevice:
    """A device with `queues` request queues, and `others` before them, on `engine`.

    A subclass says what it is (see `platform.virtio.Device`) and serves what comes. Raises
    `ValueError` for what cannot be.
    """

    name = "virtio"
    """As its messages call it."""

    def __init__(
        self,
        engine: Engine,
        log: logging.Logger,
        *,
        queues: int,
        queue_size: int,
        packed: bool,
        others: int = 0,
    ) -> None:
        if not 1 <= queues <= MAX_QUEUES:
            raise ValueError(f"{queues} queues: from 1 to {MAX_QUEUES} are possible")
        if not 4 <= queue_size <= MAX_QUEUE_SIZE or queue_size & (queue_size - 1):
            raise ValueError(f"queue size {queue_size}: a power of two from 4 to {MAX_QUEUE_SIZE}")
        self._engine = engine
        self.queue_sizes: Sequence[int] = (queue_size,) * (others + queues)
        self.ring_features = RING_FEATURES | (mask(RingFeature.RING_PACKED) if packed else 0)
        self._features = 0
        self._transport: Transport | None = None
        self._runners: dict[int, Runner] = {}
        self._stopping: dict[int, Runner] = {}
        self._held = False
        self._guest_log, self._bug_log = RationedLog(log), RationedLog(log)

    def attach(self, transport: Transport | None) -> None:
        """This is your transport now."""
        self._transport = transport

    def server_of(self, index: int) -> Serve:
        """What serves queue `index`. See `Runner`."""
        return self._serve

    def _serve(self, runner: Runner, head: int, rows: Rows) -> int | None:
        raise NotImplementedError

    def start_queue(self, index: int, setup: QueueSetup) -> None:
        """The driver has set up a queue: serve what is in it already. Raises `RingError`."""
        kind = PackedQueue if self._features & mask(RingFeature.RING_PACKED) else SplitQueue
        queue = kind(setup, event_idx=bool(self._features & mask(RingFeature.EVENT_IDX)))
        broken = partial(self._broken, index)
        runner = Runner(self._engine, queue, self.server_of(index), broken, index)
        runner.held = self._held
        self._runners[index] = runner
        self.kick(index)

    @property
    def queue_states(self) -> dict[int, dict[str, int]]:
        """The queues that the driver has set up, by number; see `Runner.state`."""
        return {index: runner.state for index, runner in self._runners.items()}

    @property
    def queue_positions(self) -> dict[int, int]:
        """Where the next chain of each will be, by number; see `platform.virtio.Stopped`."""
        return {index: runner.queue.position for index, runner in self._runners.items()}

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way."""
        runners = (*self._runners.values(), *self._stopping.values())
        return all(runner.at_rest for runner in runners)

    def hold(self, held: bool) -> None:
        """While it is held no request is taken, from whatever queue."""
        self._held = held
        for index, runner in tuple(self._runners.items()):
            runner.held = held
            self.kick(index)

    def kick(self, index: int) -> None:
        """The driver says that there is work in a queue."""
        runner = self._runners.get(index)
        if runner is not None:
            runner.drain()

    def stop_queue(self, index: int, stopped: Stopped, *, cancel: bool) -> None:
        """Take no more from a queue; see `platform.virtio.Device`."""
        runner = self._stopping[index] = self._runners.pop(index)

        def at_rest(position: int) -> None:
            del self._stopping[index]
            stopped(position)

        runner.stop(at_rest, cancel=cancel)

    def mute(self) -> None:
        """What is given back in this turn is told by no interrupt: no device does that."""
        for runner in self._runners.values():
            queue = runner.queue
            if queue.signal is not silence:
                self._engine.later(partial(setattr, queue, "signal", queue.signal))
                queue.signal = silence

    def fail(self, why: str) -> None:
        """Serve nothing before the driver resets the device, and say so (section 2.1.2)."""
        for runner in tuple(self._runners.values()):
            runner.fail(RingError(why))

    def cancel_queue(self, index: int) -> None:
        """Do not wait for a queue that is being stopped."""
        if runner := self._stopping.get(index):
            runner.cancel()

    def remap(self) -> None:
        """Guest memory was laid out anew under the queues."""
        for index, runner in tuple(self._runners.items()):
            if runner.remap():
                self.kick(index)

    def _broken(self, index: int, error: RingError) -> None:
        self._guest_log.warning("%s queue %d is broken: %s", self.name, index, error)
        if self._transport is not None:
            self._transport.needs_reset()
