"""Disks that take their time, on clocks that the tests hold."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.filters.delay import Delay
from drivebay.disk.filters.latency import Fixed, HardDisk, Latency, Tail
from drivebay.disk.filters.throttle import Limits, Throttle
from drivebay.disk.spec import open_disk
from drivebay.platform.engine import Engine
from drivebay.suspend import Promise, run, sleep
from drivebay.testing import RecordingDisk
from tests.disk.support import Stepped, get, put, view

SIZE = 1 << 20


class Clock:
    """Time that stands still until the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[float] = []
        self._waiting: list[tuple[float, Promise[None]]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> Promise[None]:
        self.asked.append(seconds)
        promise = Promise[None]()
        self._waiting.append((self.now + seconds, promise))
        return promise

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        due = [one for one in self._waiting if one[0] <= self.now + 1e-9]
        self._waiting = [one for one in self._waiting if one not in due]
        for _, promise in sorted(due, key=lambda one: one[0]):
            promise.give(None)

    @property
    def waiting(self) -> int:
        return sum(not promise.abandoned for _, promise in self._waiting)


OPERATIONS: dict[str, Callable[[Delay | Throttle], Stepped]] = {
    "read": lambda disk: Stepped(disk.read(0, [view(512)])),
    "write": lambda disk: Stepped(disk.write(0, [view(512)])),
    "flush": lambda disk: Stepped(disk.flush()),
    "unmap": lambda disk: Stepped(disk.unmap(0, 1)),
    "write_zeroes": lambda disk: Stepped(disk.write_zeroes(0, 1)),
}


def finish(operation: Stepped) -> None:
    """Do the system calls that it has for a worker."""
    while operation.calls:
        operation.work()
    assert operation.done


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_begins_when_its_time_has_come(name: str) -> None:
    clock = Clock()
    below = RecordingDisk(RamDisk(SIZE))
    operation = OPERATIONS[name](Delay(below, Fixed(0.002), clock.sleep))
    clock.pass_by(0.001)
    assert (operation.done, below.calls) == (False, [])
    clock.pass_by(0.001)
    finish(operation)
    assert [call.name for call in below.calls] == [name]


def test_extents_wait_too() -> None:
    clock = Clock()
    disk = Delay(RamDisk(SIZE), Fixed(0.002), clock.sleep)

    async def look() -> None:
        await disk.extents(0, 1)

    operation = Stepped(look())
    assert not (operation.done or operation.calls)
    clock.pass_by(0.002)
    finish(operation)


def test_the_profile_is_changed_at_run_time() -> None:
    clock = Clock()
    below = RamDisk(SIZE)
    disk = Delay(below, Fixed(1.0), clock.sleep)
    slow = Stepped(disk.read(0, [view(512)]))
    disk.latency = Fixed(0)
    assert Stepped(disk.read(0, [view(512)])).done
    assert not slow.done
    assert disk.details == {"delay": "fixed=0ms"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_reset_gives_a_wait_up_at_once(name: str) -> None:
    engine = Engine(workers=0)
    below = RecordingDisk(RamDisk(SIZE))
    disk = Delay(below, Fixed(3600))
    coroutine = {
        "read": lambda: disk.read(0, [view(512)]),
        "write": lambda: disk.write(0, [view(512)]),
        "flush": disk.flush,
        "unmap": lambda: disk.unmap(0, 1),
        "write_zeroes": lambda: disk.write_zeroes(0, 1),
    }[name]()  # type: ignore[no-untyped-call]
    ends: list[BaseException | None] = []
    task = engine.start(coroutine, lambda value, error: ends.append(error))
    assert task is not None
    assert task.cancel()
    assert len(ends) == 1
    assert below.calls == []
    engine.close()


def test_the_shared_clock_keeps_the_order() -> None:
    engine = Engine(workers=0)
    ends: list[int] = []

    async def wait(number: int, seconds: float) -> None:
        await sleep(seconds)
        ends.append(number)

    for number, seconds in enumerate((0.03, 0.0, 0.02, 0.001)):
        engine.start(wait(number, seconds), lambda value, error: None)
    assert engine.run_until(lambda: len(ends) == 4)
    assert ends == [1, 3, 2, 0]
    run(wait(4, 0.0))
    assert ends[-1] == 4
    engine.close()


# -- profiles --------------------------------------------------------------------------------------


def test_a_tail_has_its_average_and_its_p99() -> None:
    tail = Tail(0.001, 0.020, seed=1)
    times = sorted(tail(0, 8) for _ in range(20_000))
    assert statistics.mean(times) == pytest.approx(0.001, rel=0.1)
    assert times[0] == pytest.approx((0.001 - 0.0002) / 0.99)
    assert len(set(times)) == 2
    assert times.count(0.020) == pytest.approx(200, rel=0.2)


def test_a_seed_gives_the_same_again() -> None:
    def series(make: Callable[[int], Latency], seed: int) -> list[float]:
        latency = make(seed)
        places = random.Random(9)
        return [latency(places.randrange(10**6), 8) for _ in range(500)]

    makes: list[Callable[[int], Latency]] = [
        lambda seed: Tail(0.001, 0.02, seed),
        lambda seed: HardDisk(lambda: 10**6, seed=seed, clock=Clock()),
    ]
    for make in makes:
        assert series(make, 1) == series(make, 1)
        assert series(make, 1) != series(make, 2)


@pytest.mark.parametrize(("average", "p99"), [(0.0001, 0.02), (0.03, 0.02)])
def test_an_average_that_cannot_be_is_refused(average: float, p99: float) -> None:
    with pytest.raises(ValueError, match="average"):
        Tail(average, p99)


def test_a_hard_disk_seeks_turns_and_does_one_thing_at_a_time() -> None:
    clock = Clock()
    disk = HardDisk(lambda: 10**6, rpm=6000, seek=0.008, clock=clock)
    assert disk(0, 100) == 0  # the arm is there
    assert disk(100, 100) == 0  # sequential
    assert disk(0, 0) == 0  # a flush moves nothing
    first = disk(500_000, 8)
    assert 0.008 * 15 / 8 * 0.7 <= first <= 0.008 * 15 / 8 * 0.71 + 0.010
    assert disk(500_008, 8) == pytest.approx(first)  # waits for the one before
    clock.now += 1.0
    assert disk(500_016, 8) == 0
    random_places = random.Random(3)
    times = []
    for _ in range(3000):
        clock.now += 1.0
        times.append(disk(random_places.randrange(10**6), 1))
    assert statistics.mean(times) == pytest.approx(0.008 + 0.005, rel=0.05)


# -- throttle --------------------------------------------------------------------------------------


def throttled(clock: Clock, limits: Limits) -> Throttle:
    return Throttle(RamDisk(SIZE), limits, clock.sleep, clock)


def test_operations_a_second() -> None:
    clock = Clock()
    disk = throttled(clock, Limits(iops=64, burst=4 / 64))
    done = [Stepped(disk.read(0, [view(512)])) for _ in range(20)]
    assert sum(one.done for one in done) == 5  # the burst, and the next, which others pay for
    for number in range(6, 21):
        clock.pass_by(1 / 64)
        assert sum(one.done for one in done) == number
    assert [one.done for one in done] == [True] * 20


def test_bytes_a_second_and_first_come_first_served() -> None:
    clock = Clock()
    disk = throttled(clock, Limits(bps=1 << 20, burst=0.0))
    large = Stepped(disk.write(0, [view(1 << 19)]))
    small = [Stepped(disk.read(0, [view(512)])) for _ in range(3)]
    assert large.done  # what is larger than a burst is not starved
    clock.pass_by(0.49)
    assert not any(one.done for one in small)
    clock.pass_by(0.0101)
    assert [one.done for one in small] == [True, False, False]
    clock.pass_by(0.001)
    assert all(one.done for one in small)


def test_reads_and_writes_have_limits_of_their_own() -> None:
    clock = Clock()
    disk = throttled(clock, Limits(write_iops=1, burst=0.0))
    assert Stepped(disk.write(0, [view(512)])).done
    assert not Stepped(disk.write(0, [view(512)])).done
    zeroes = Stepped(disk.write_zeroes(0, 1))
    assert not (zeroes.done or zeroes.calls)
    assert all(Stepped(disk.read(0, [view(512)])).done for _ in range(100))
    assert Stepped(disk.flush()).done
    disk = throttled(clock, Limits(read_bps=512, burst=0.0))
    assert Stepped(disk.read(0, [view(512)])).done
    assert not Stepped(disk.read(0, [view(512)])).done
    finish(Stepped(disk.unmap(0, 1)))


def test_what_was_not_used_is_made_up_for_within_the_burst() -> None:
    clock = Clock()
    disk = throttled(clock, Limits(iops=8, burst=0.5))
    clock.now += 3600
    assert sum(Stepped(disk.read(0, [view(512)])).done for _ in range(50)) == 5


def test_a_reset_pays_nothing_for_what_it_gives_up() -> None:
    engine = Engine(workers=0)
    clock = Clock()
    disk = throttled(clock, Limits(iops=10, bps=10 << 9, burst=0.0))
    assert Stepped(disk.read(0, [view(512)])).done
    tasks = [engine.start(disk.read(0, [view(512)]), lambda v, e: None) for _ in range(100)]
    for task in tasks:
        assert task is not None
        assert task.cancel()
    clock.pass_by(0.1)
    assert Stepped(disk.read(0, [view(512)])).done
    engine.close()


def test_limits_are_changed_at_run_time() -> None:
    clock = Clock()
    disk = throttled(clock, Limits(iops=1, burst=0.0))
    put(disk, 0, bytes(512))
    waits = Stepped(disk.read(0, [view(512)]))
    disk.limits = Limits()
    assert get(disk, 0, 1) == bytes(512)
    assert not waits.done
    clock.pass_by(1.0)
    assert waits.done


@given(
    rate=st.integers(1, 1000),
    burst=st.floats(0, 1),
    steps=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 20)), max_size=30),
)
def test_never_more_than_the_rate_and_the_burst(
    rate: int, burst: float, steps: list[tuple[float, int]]
) -> None:
    """In every window the operations are at most what it pays for, and the order is kept."""
    clock = Clock()
    disk = throttled(clock, Limits(iops=rate, burst=burst))
    begun: list[float] = []
    for gap, count in steps:
        clock.now += gap
        for _ in range(count):
            before = len(clock.asked)
            Stepped(disk.read(0, [view(512)]))
            waits = clock.asked[before] if len(clock.asked) > before else 0.0
            begun.append(clock.now + waits)
    assert begun == sorted(begun)
    for i, start in enumerate(begun):
        for j in range(i, len(begun)):
            assert j - i <= (begun[j] - start + burst) * rate + 1e-3 + 1


@pytest.mark.parametrize(
    ("name", "average", "p99"),
    [("sata-ssd", 0.00012, 0.0006), ("worn-ssd", 0.002, 0.09), ("cloud-volume", 0.001, 0.006)],
)
def test_profiles_that_have_a_name(name: str, average: float, p99: float) -> None:
    disk = open_disk(f"delay:{name},seed=1:mem:1M")
    assert isinstance(disk, Delay)
    times = [disk.latency(0, 8) for _ in range(20_000)]
    disk.close()
    assert max(times) == p99
    assert sum(times) / len(times) == pytest.approx(average, rel=0.25)
