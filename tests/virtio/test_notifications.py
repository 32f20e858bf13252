"""Kicks and interrupts: none is lost, and no more are sent than were asked for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from drivebay.controllers.virtio.packed import PackedQueue
from drivebay.controllers.virtio.runner import BATCH, Runner
from drivebay.controllers.virtio.split import SplitQueue
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer, DriverRing
from drivebay.drivers.virtio_ring import PackedDriverRing as PackedRing
from drivebay.drivers.virtio_ring import SplitDriverRing as SplitRing
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import QueueSetup, RingAddresses

from .bench import MakeBench

KINDS: dict[str, tuple[type, type, bool]] = {
    "split": (SplitRing, SplitQueue, False),
    "split, event index": (SplitRing, SplitQueue, True),
    "packed": (PackedRing, PackedQueue, False),
    "packed, event index": (PackedRing, PackedQueue, True),
}


class Wire:
    """A ring with a guest on this thread and a device on its own: two eventfds and memory."""

    def __init__(self, kind: str, size: int) -> None:
        make_ring, make_queue, event_idx = KINDS[kind]
        memory = GuestMemory.of_size(1 << 20)
        self.ring: DriverRing = make_ring(Arena(memory, 0, 1 << 20), size, event_idx=event_idx)
        self.engine = Engine()
        self.interrupts = self.kicks = 0
        self.late = 0
        """Chains that come while the device lingers at its empty ring."""
        self.interrupted = threading.Semaphore(0)
        addresses = RingAddresses(*self.ring.addresses)
        setup = QueueSetup(memory, size, addresses, self._interrupt, linger=self._linger)
        queue = make_queue(setup, event_idx=event_idx)
        self.runner = Runner(self.engine, queue, lambda runner, head, rows: 1, self._broken)
        self.errors: list[Exception] = []

    def _interrupt(self) -> None:
        self.interrupts += 1
        self.interrupted.release()

    def _linger(self, waiting: Callable[[], bool]) -> bool:
        if self.late:
            self.ring.add([Buffer(0, 1, True)])
            self.late -= 1
        return waiting()

    def _broken(self, error: Exception) -> None:
        self.errors.append(error)

    def kick(self) -> None:
        if self.ring.kick_wanted():
            self.kicks += 1
            self.engine.later(self.runner.drain)

    def take(self) -> int:
        return len(list(self.ring.take()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 7])
@pytest.mark.usefixtures("quick_switches")
def test_no_notification_is_lost_between_two_threads(kind: str, depth: int) -> None:
    """SPDK df8d361f6c. The guest sleeps until it is interrupted, the device until it is kicked, and
    both have told the other not to bother while they are awake. 10^5 requests in all.
    """
    wire = Wire(kind, 8)
    thread = threading.Thread(target=wire.engine.run)
    wire.engine.later(wire.runner.drain)
    thread.start()
    done = 0
    deadline = time.monotonic() + 20
    try:
        for round_ in range(12_500 // (1 if depth > 1 else 2)):
            for _ in range(depth):
                wire.ring.add([Buffer(0, 1, True)])
            if round_ % 3:
                wire.ring.want_interrupt(False)
            wire.kick()
            waiting = depth
            while waiting:
                waiting -= wire.take()
                if waiting:
                    wire.ring.want_interrupt()
                    waiting -= wire.take()  # what came before the wish was stored
                if waiting and not wire.interrupted.acquire(timeout=5):
                    raise AssertionError(f"lost after {done}: {wire.errors}")
            done += depth
            assert time.monotonic() < deadline, f"only {done} requests"
    finally:
        wire.engine.stop()
        thread.join()
        wire.engine.close()
    assert not wire.errors


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_while_the_device_lingers_needs_no_kick(kind: str) -> None:
    wire = Wire(kind, 8)
    wire.late = 3
    wire.ring.add([Buffer(0, 1, True)])
    assert wire.ring.kick_wanted()
    wire.runner.drain()
    assert wire.take() == 4
    wire.ring.add([Buffer(0, 1, True)])
    assert wire.ring.kick_wanted(), "then it went to sleep"
    wire.engine.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_as_the_device_falls_asleep_is_served(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring looked empty, the wish for kicks is not stored yet, and the guest offers a chain."""
    wire = Wire(kind, 8)
    arm = wire.runner.queue.arm
    offers = [1, 2]

    def guest_first() -> bool:
        for _ in range(offers.pop() if offers else 0):
            wire.ring.add([Buffer(0, 1, True)])
        return arm()

    monkeypatch.setattr(wire.runner.queue, "arm", guest_first)
    wire.runner.drain()
    assert wire.take() == 3
    wire.engine.close()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns after microseconds, so that they meet in odd places."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", KINDS)
def test_suppressed_interrupts_do_not_come(kind: str) -> None:
    wire = Wire(kind, 8)
    for _ in range(40):
        wire.ring.want_interrupt(False)
        wire.ring.add([Buffer(0, 1, True)])
        wire.runner.drain()
        assert wire.take() == 1
    assert wire.interrupts <= 1  # an event index is a place; the first batch may pass it
    wire.engine.close()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "event" in kind])
def test_an_interrupt_comes_once_for_a_batch(kind: str) -> None:
    wire = Wire(kind, 64)
    for _ in range(20):
        wire.ring.want_interrupt()
        before = wire.interrupts
        for _ in range(BATCH):
            wire.ring.add([Buffer(0, 1, True)])
        wire.runner.drain()
        assert wire.interrupts == before + 1
        assert wire.take() == BATCH
    wire.engine.close()


@pytest.mark.parametrize("start", [0, 3, 0x7FFE, 0xFFFC, 0xFFFF])
@pytest.mark.parametrize("batch", range(1, 9))
def test_an_interrupt_comes_exactly_when_the_batch_passes_the_event(start: int, batch: int) -> None:
    """Section 2.7.7.2, on a split ring: every event from well before the batch to well after it."""
    for event in range(-10, 20):
        memory = GuestMemory.of_size(4096)
        ring = SplitRing(Arena(memory, 0, 4096), 8, event_idx=True)
        ring._added = ring.avail[1] = ring.used[1] = start
        signals: list[bool] = []
        addresses, signal = RingAddresses(*ring.addresses), partial(signals.append, True)
        setup = QueueSetup(memory, 8, addresses, signal, position=start)
        queue = SplitQueue(setup, event_idx=True)
        for _ in range(batch):
            ring.add([Buffer(0, 1, True)])
        for head, _ in queue.chains():
            queue.push(head, 1)
        ring.avail[2 + 8] = (start + event) & 0xFFFF
        queue.publish()
        assert bool(signals) == (0 <= event < batch), event


@pytest.mark.parametrize("kind", KINDS)
def test_kicks_are_wanted_only_while_the_device_sleeps(kind: str) -> None:
    wire = Wire(kind, 8)
    wire.runner.drain()
    for _ in range(20):
        wire.ring.add([Buffer(0, 1, True)])
        assert wire.ring.kick_wanted()
        wire.runner.drain()
        assert wire.take() == 1
    wire.runner.queue.disarm()
    if wire.runner.queue.event_idx and "split" in kind:
        wire.ring.add([Buffer(0, 1, True)])
        wire.ring.kick_wanted()  # the event is passed now, and stays in the past
    wire.ring.add([Buffer(0, 1, True)])
    assert not wire.ring.kick_wanted()
    wire.engine.close()


def test_the_indices_of_a_split_ring_are_stored_whole() -> None:
    """crosvm 1f4797875: a reader never sees half of a new index, and never one that goes back."""
    wire = Wire("split", 8)
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        assert isinstance(wire.ring, SplitRing)
        used = wire.ring.used
        last = 0
        while not stop.is_set():
            now = used[1]
            if (now - last) & 0xFFFF > 8 * 2048:
                seen.append(now)
            last = now

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(9_000):  # past 65536
        for _ in range(8):
            wire.ring.add([Buffer(0, 1, True)])
        wire.runner.drain()
        assert wire.take() == 8
    stop.set()
    thread.join()
    assert not seen
    wire.engine.close()


@pytest.mark.parametrize("cast", ["avail", "used"])
def test_ring_indices_are_single_aligned_stores(cast: str) -> None:
    """What makes them so: 16-bit views, on even addresses."""
    wire = Wire("split", 8)
    queue = wire.runner.queue
    assert isinstance(queue, SplitQueue)
    view = queue._avail if cast == "avail" else queue._used
    assert (view.format, view.itemsize) == ("H", 2)
    packed = Wire("packed", 8).runner.queue
    assert isinstance(packed, PackedQueue)
    assert {packed._halves.format, packed._driver.format, packed._device.format} == {"H"}


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH])
def test_the_line_goes_up_and_stays_until_it_is_acknowledged(
    bench: MakeBench, features: int, count: int
) -> None:
    b = bench()
    guest = b.guest(features=features)
    guest.driver.ring().want_interrupt()
    for n in range(count):
        guest.driver.ring().add(guest.request(0, n, room=512).chain)
    guest.kick()
    assert b.levels == [True]
    assert guest.driver.get("InterruptStatus") == 1
    guest.driver.set("InterruptACK", 1)
    assert b.levels == [True, False]
    assert len(guest.used()) == count
