"""In-flight tracking: a server that ends at any step, and areas of garbage."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Literal

import pytest

from drivebay.controllers.virtio import packed as packed_ring
from drivebay.controllers.virtio import split as split_ring
from drivebay.controllers.virtio.packed import PackedQueue
from drivebay.controllers.virtio.ring import Rows
from drivebay.controllers.virtio.split import SplitQueue
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer, PackedDriverRing, SplitDriverRing
from drivebay.hosts.vhost_user import inflight
from drivebay.hosts.vhost_user.codec import PeerError
from drivebay.hosts.vhost_user.inflight import InflightArea, PackedTracker, SplitTracker
from drivebay.hosts.vhost_user.messages import Inflight
from drivebay.platform.memory import GuestMemory
from drivebay.platform.virtio import QueueSetup, RingAddresses, RingError

from .support import Bay, no_fd_is_left

SIZE = 8


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Ends a server before the line number `left` that it runs of its rings and trackers."""

    FILES = frozenset(module.__file__ for module in (inflight, split_ring, packed_ring))

    def __init__(self, left: int) -> None:
        self.left = left

    def run(self, work: Callable[[], None]) -> bool:
        """Do the work; whether it came to its end."""
        sys.settrace(self._call)
        try:
            work()
        except Killed:
            return False
        finally:
            sys.settrace(None)
        return True

    def _call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return self._line if frame.f_code.co_filename in self.FILES else None

    def _line(self, frame: FrameType, event: Literal["line"], _: Any) -> Callable[..., Any]:
        if event == "line":
            self.left -= 1
            if self.left < 0:
                raise Killed
        return self._line


class Guest:
    """The driver's side, which outlives servers: no chain may be answered twice."""

    def __init__(self, *, packed: bool, rng: random.Random) -> None:
        self.packed, self.rng = packed, rng
        self.memory = GuestMemory.of_size(1 << 16)
        arena = Arena(self.memory, 0, 1 << 16)
        self.ring = (PackedDriverRing if packed else SplitDriverRing)(arena, SIZE)
        self.area = memoryview(bytearray((PackedTracker if packed else SplitTracker).length(SIZE)))
        self.waiting: dict[int, list[tuple[int, int]]] = {}
        self.added = 0

    def add(self) -> None:
        """Offer a chain of one to three buffers, if there is room."""
        buffers = []
        for _ in range(self.rng.randint(1, 3)):
            self.added += 1
            buffers.append(Buffer(self.added, self.added, True))
        if self.ring.free >= len(buffers):
            token = self.ring.add(buffers)
            self.waiting[token] = [(address, length) for address, length, _ in buffers]

    def take(self) -> None:
        """Take what was given back."""
        for token, written in self.ring.take():
            assert token in self.waiting, "answered twice"
            assert written == self.waiting.pop(token)[0][0], "another's answer"

    def server(self) -> Server:
        return Server(self)


class Server:
    """One process: it serves chains in any order until it is killed."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.queue: PackedQueue | SplitQueue
        self.held: dict[int, Rows] = {}

    def start(self) -> None:
        guest = self.guest
        setup = QueueSetup(
            memory=guest.memory,
            size=SIZE,
            addresses=RingAddresses(*guest.ring.addresses),
            signal=lambda: None,
            position=None,  # what a front end knows after a crash is old
            tracker=None if guest.packed else SplitTracker(guest.area, SIZE),
            packed_tracker=PackedTracker(guest.area, SIZE) if guest.packed else None,
        )
        self.queue = (PackedQueue if guest.packed else SplitQueue)(setup, event_idx=False)
        self.queue.held = self.held

    def pop(self) -> bool:
        for head, rows in self.queue.chains():
            offered = list(zip(rows[::4], rows[1::4], strict=True))
            assert self.guest.waiting[head] == offered, "not what was offered"
            self.held[head] = rows
            return True
        return False

    def push(self, most: int = 1) -> None:
        count = self.guest.rng.randint(min(1, len(self.held)), min(most, len(self.held)))
        done: list[int] = []
        for head in self.guest.rng.sample(list(self.held), count):
            done += (head, self.held.pop(head)[0])
        if done:
            self.queue.push_all(done)

    def work(self, count: int) -> None:
        self.start()
        rng, guest = self.guest.rng, self.guest
        for _ in range(count):
            push = partial(self.push, most=3)
            steps: list[Callable[[], object]] = [
                guest.add,
                guest.add,
                self.pop,
                self.pop,
                push,
                push,
                self.end,
            ]
            rng.choice(steps)()

    def end(self) -> None:
        self.queue.publish()
        self.guest.take()

    def finish(self) -> None:
        """Serve all that is left."""
        while self.pop() or self.held:
            self.push()
            self.end()
        self.guest.take()


def killed_at(line: int, seed: int, *, packed: bool, again: int) -> bool:
    """A server that is killed before a line, another before line `again` (perhaps while it takes up
    what the first has left), and a third that serves the rest; whether the first was killed.
    """
    guest = Guest(packed=packed, rng=random.Random(seed))
    ended = Fuse(line).run(lambda: guest.server().work(60))
    guest.take()
    guest.add()
    Fuse(again).run(lambda: guest.server().work(20))
    guest.take()
    server = guest.server()
    server.start()
    server.finish()
    assert not guest.waiting, "lost"
    return not ended


@pytest.mark.parametrize("seed", range(4))
def test_no_request_is_lost_or_answered_twice_wherever_a_server_is_killed(
    packed: bool, seed: int
) -> None:
    line = 0
    while killed_at(line, seed, packed=packed, again=line * 7 % 150):
        line += 1
    assert line > 200


def test_random_deaths(packed: bool) -> None:
    rng = random.Random(9)
    for seed in range(400):
        killed_at(rng.randrange(600), 100 + seed, packed=packed, again=rng.randrange(300))


def test_requests_are_taken_up_in_the_order_they_came(packed: bool) -> None:
    guest = Guest(packed=packed, rng=random.Random(2))
    first = guest.server()
    first.start()
    for _ in range(50):  # so that the order is not that of the heads
        guest.add()
        first.pop()
        if guest.rng.random() < 0.7:
            first.push()
            first.end()
    heads = list(first.held)
    assert len(heads) > 1
    second = guest.server()
    second.start()
    while second.pop():
        pass
    assert list(second.held)[: len(heads)] == heads


def test_a_ring_full_of_requests_in_flight_is_taken_up(packed: bool) -> None:
    guest = Guest(packed=packed, rng=random.Random(4))
    server = guest.server()
    server.start()
    for start in range(3 * SIZE):  # at every place of the ring
        while guest.ring.free:
            guest.add()
        while server.pop():
            pass
        server = guest.server()
        server.start()
        for _ in range(start % 3 + 1):
            server.pop()
            server.push()
            server.end()
        server = guest.server()
        server.start()
        while server.pop():
            pass
    server.finish()
    assert not guest.waiting


# -- garbage --------------------------------------------------------------------------------------


def valid(area: bytearray, size: int) -> memoryview:
    """The area, with a version and a size that make it be read."""
    area[8:12] = (1).to_bytes(2, "little") + size.to_bytes(2, "little")
    return memoryview(area)


def check_recovery(area: bytearray, rng: random.Random) -> None:
    """What is recovered from an area is possible, or refused."""
    used = rng.randrange(1 << 16)
    heads = SplitTracker(valid(bytearray(area), SIZE), SIZE).recover(used)
    assert len(set(heads)) == len(heads)
    assert set(heads) <= set(range(SIZE))
    tracker = PackedTracker(valid(area, SIZE), SIZE)
    try:
        position, chains = tracker.recover(0x8000, lambda _: rng.random() < 0.5)
        assert position & 0x7FFF < SIZE
        assert len({ident for ident, _ in chains}) == len(chains)
        assert sum(len(copies) for _, copies in chains) <= SIZE
        for ident in (1 << 16, 1 << 17):
            tracker.taken(ident, [(0, 0, 0, 0)])
            tracker.pushed(ident)
            tracker.publishing(0)
            tracker.published()
    except RingError:
        return


def test_an_area_of_any_one_byte_is_recovered_or_refused() -> None:
    rng = random.Random(6)
    for byte in range(256):
        check_recovery(bytearray([byte]) * PackedTracker.length(SIZE), rng)


def test_an_area_of_random_bytes_is_recovered_or_refused() -> None:
    rng = random.Random(7)
    for _ in range(3000):
        area = bytearray(PackedTracker.length(SIZE))
        for _ in range(rng.choice([3, 30, 300])):
            area[rng.randrange(len(area))] = rng.choice([0, 1, 2, SIZE - 1, SIZE, 255])
        check_recovery(area, rng)


def test_an_area_that_changes_under_a_server_ends_no_more_than_its_ring(packed: bool) -> None:
    for seed in range(200):
        rng = random.Random(seed)
        guest = Guest(packed=packed, rng=rng)
        server = guest.server()
        server.start()
        try:
            for _ in range(60):
                guest.area[rng.randrange(len(guest.area))] = rng.randrange(256)
                guest.add()
                server.pop()
                server.push()
                server.end()
        except RingError:
            continue


def test_a_server_given_garbage_lives_on(bay: Bay, packed: bool) -> None:
    rng = random.Random(8)
    for _ in range(40):
        with bay.guest(packed=packed) as guest:
            assert guest.inflight is not None
            fd, shape = guest.inflight
            os.pwrite(fd, rng.randbytes(shape.mmap_size), 0)
            size = guest.queue_size.to_bytes(2, "little")
            os.pwrite(fd, b"\1\0" + size, 8)
            guest.reconnect()
            bay.settle()
    bay.still_works()


SHAPES = {
    "no bytes": Inflight(0, 0, 1, 64),
    "past its file": Inflight(1 << 20, 0, 1, 64),
    "offset past its file": Inflight(4096, 1 << 40, 1, 64),
    "numbers that wrap": Inflight((1 << 64) - 1, (1 << 64) - 1, 1, 64),
    "half the numbers": Inflight(1 << 63, 0, 1, 64),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_an_area_that_cannot_be_mapped_is_refused(shape: Inflight) -> None:
    fd, _ = InflightArea.create(1, 64)
    with no_fd_is_left(), pytest.raises(PeerError):
        InflightArea(fd, shape)
    os.close(fd)


def test_a_ring_that_has_no_part_in_the_area_is_refused() -> None:
    fd, shape = InflightArea.create(2, 64)
    area = InflightArea(fd, shape)
    os.close(fd)
    for part in (area.split, area.packed):
        part(1, 64)
        with pytest.raises(PeerError, match="ring 2 of 64"):
            part(2, 64)
        with pytest.raises(PeerError, match="ring 0 of 128"):
            part(0, 128)


def test_an_area_may_begin_anywhere_in_its_file() -> None:
    fd = os.memfd_create("area")
    os.ftruncate(fd, 1 << 16)
    area = InflightArea(fd, Inflight(8192, 12345, 2, 64))
    area.split(1, 64).recover(0)
    area.wipe(1, packed=False)
    os.close(fd)


def test_an_area_of_ours_cannot_be_truncated() -> None:
    fd, _ = InflightArea.create(1, 64)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
