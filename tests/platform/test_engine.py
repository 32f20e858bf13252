"""The engine: turns, coroutines, workers, timers, and what must not stop it."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drivebay.platform.engine import Engine, Task
from drivebay.suspend import (
    DONE,
    Blocking,
    Cancelled,
    Resume,
    Suspension,
    Workers,
    blocking,
    run,
    sleep,
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(workers=2)
    yield engine
    engine.close()


class Gate(Suspension[Any]):
    """A wait that the test ends, and that may be given up if it says so."""

    def __init__(self, *, gives_up: bool = True) -> None:
        self.gives_up = gives_up
        self.resume: Resume | None = None

    def begin(self, workers: Workers, resume: Resume) -> None:
        self.resume = resume

    def cancel(self) -> bool:
        return self.gives_up

    def open(self, value: Any = None, error: BaseException | None = None) -> None:
        assert self.resume is not None
        self.resume(value, error)


class Outcome:
    """What `done` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, BaseException | None]] = []

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.told.append((value, error))


# -- coroutines ------------------------------------------------------------------------------------


def test_a_coroutine_that_never_waits_ends_in_its_first_step(engine: Engine) -> None:
    async def at_once() -> int:
        return 7

    done = Outcome()
    assert engine.start(at_once(), done) is None
    assert done.told == [(7, None)]


def test_what_is_done_can_be_driven_and_awaited(engine: Engine) -> None:
    async def awaits() -> int:
        await DONE
        return 7

    done = Outcome()
    assert engine.start(DONE, done) is None
    assert engine.start(awaits(), done) is None
    assert done.told == [(None, None), (7, None)]
    assert run(awaits()) == 7


def test_an_exception_in_the_first_step_is_told(engine: Engine) -> None:
    async def fails() -> None:
        raise ValueError("x")

    done = Outcome()
    assert engine.start(fails(), done) is None
    assert isinstance(done.told[0][1], ValueError)


def test_a_coroutine_waits_as_often_as_it_likes(engine: Engine) -> None:
    gates = [Gate(), Gate(), Gate()]

    async def three() -> list[int]:
        return [await gate for gate in gates]

    done = Outcome()
    assert isinstance(engine.start(three(), done), Task)
    for n, gate in enumerate(gates):
        gate.open(n)
        assert not done.told
        engine.turn(0)
    assert done.told == [([0, 1, 2], None)]


def test_a_wait_may_end_with_an_exception(engine: Engine) -> None:
    gate = Gate()

    async def catches() -> str:
        try:
            await gate
        except KeyError:
            return "caught"
        return "missed"

    done = Outcome()
    engine.start(catches(), done)
    gate.open(error=KeyError("x"))
    engine.turn(0)
    assert done.told == [("caught", None)]


def test_a_wait_ends_once(engine: Engine) -> None:
    gate, other = Gate(), Gate()

    async def waits() -> Any:
        return await gate, await other

    done = Outcome()
    engine.start(waits(), done)
    for value in ("first", "second", "third"):
        gate.open(value)
    engine.turn(0)
    assert not done.told
    other.open("end")
    engine.turn(0)
    assert done.told == [(("first", "end"), None)]


def test_a_wait_that_cannot_begin_is_the_coroutines_affair(engine: Engine) -> None:
    """No thread may be left to start; or it awaited what no engine knows."""

    class Stillborn(Suspension[None]):
        def begin(self, workers: Workers, resume: Resume) -> None:
            raise RuntimeError("can't start new thread")

    class Foreign:
        def __await__(self) -> Iterator[object]:
            yield object()

    async def waits(what: Any) -> None:
        await what

    for what, error in ((Stillborn(), RuntimeError), (Foreign(), AttributeError)):
        done = Outcome()
        engine.start(waits(what), done)
        engine.turn(0)
        assert [type(failure) for _, failure in done.told] == [error]


# -- cancel ----------------------------------------------------------------------------------------


def test_a_task_that_can_be_given_up_ends_at_once(engine: Engine) -> None:
    gate = Gate()
    cleaned: list[bool] = []

    async def waits() -> None:
        try:
            await gate
        finally:
            cleaned.append(True)

    done = Outcome()
    task = engine.start(waits(), done)
    assert task is not None
    assert task.cancel()
    assert cleaned == [True]
    assert isinstance(done.told[0][1], Cancelled)
    gate.open("too late")
    engine.turn(0)
    assert len(done.told) == 1
    assert not task.cancel()


def test_a_task_that_cannot_be_given_up_ends_by_itself(engine: Engine) -> None:
    gate = Gate(gives_up=False)

    async def waits() -> Any:
        return await gate

    done = Outcome()
    task = engine.start(waits(), done)
    assert task is not None
    assert not task.cancel()
    assert not done.told
    gate.open("end")
    engine.turn(0)
    assert done.told == [("end", None)]


def test_a_cancelled_coroutine_may_wait_once_more_to_clean_up(engine: Engine) -> None:
    first, second = Gate(), Gate()

    async def waits() -> None:
        try:
            await first
        finally:
            await second

    done = Outcome()
    task = engine.start(waits(), done)
    assert task is not None
    assert task.cancel()
    assert not done.told
    second.open()
    engine.turn(0)
    assert isinstance(done.told[0][1], Cancelled)


def test_except_exception_does_not_catch_a_cancel() -> None:
    assert not issubclass(Cancelled, Exception)


# -- workers ---------------------------------------------------------------------------------------


def test_a_blocking_call_runs_elsewhere_and_comes_back(engine: Engine) -> None:
    async def asks() -> tuple[str, bool]:
        name = await blocking(lambda: threading.current_thread().name)
        return name, threading.current_thread() is threading.main_thread()

    done = Outcome()
    engine.start(asks(), done)
    assert engine.run_until(lambda: bool(done.told))
    [((name, home), _)] = done.told
    assert name.startswith("drivebay-worker")
    assert home


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_exception_on_a_worker_is_raised_where_it_is_awaited(workers: int) -> None:
    engine = Engine(workers)
    done = Outcome()

    async def fails() -> None:
        await Blocking([].pop)

    engine.start(fails(), done)
    assert engine.run_until(lambda: bool(done.told))
    assert isinstance(done.told[0][1], IndexError)
    engine.close()


def test_no_thread_is_started_before_it_is_needed() -> None:
    before = threading.active_count()
    engine = Engine(workers=8)
    engine.turn(0)
    assert threading.active_count() == before
    engine.close()


def test_closing_leaves_no_thread_and_no_descriptor() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    gc.collect()  # it may have files of other tests
    before = threading.active_count(), open_files()
    for _ in range(50):
        engine = Engine(workers=2)
        done = Outcome()
        engine.submit(lambda: 1, done)
        engine.close()
        assert done.told == [(1, None)]
    assert (threading.active_count(), open_files()) == before


def test_what_ends_after_closing_writes_to_no_other_file(tmp_path: Path) -> None:
    engine = Engine()
    gate, done = Gate(), Outcome()

    async def waits() -> None:
        await gate

    engine.start(waits(), done)
    before = set(os.listdir("/proc/self/fd"))
    engine.close()
    closed = before - set(os.listdir("/proc/self/fd"))
    others = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in closed]
    assert closed <= set(os.listdir("/proc/self/fd"))  # the numbers are taken again
    gate.open()
    engine.stop()
    assert [os.fstat(fd).st_size for fd in others] == [0] * len(others)
    assert not done.told
    for fd in others:
        os.close(fd)


def test_a_sleeper_that_fails_keeps_no_other_from_waking(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(value: Any, error: BaseException | None) -> None:
        raise OSError("gone")

    async def sleeps() -> None:
        await sleep(0.001)

    done = Outcome()
    sleep(0).begin(engine, fails)
    engine.start(sleeps(), done)
    assert engine.run_until(lambda: bool(done.told))
    assert "gone" in caplog.text


def test_a_coroutine_can_be_run_without_an_engine() -> None:
    async def asks() -> int:
        return await blocking(lambda: 3) + await blocking(lambda: 4)

    async def fails() -> None:
        await blocking(lambda: int("x"))

    assert run(asks()) == 7
    with pytest.raises(ValueError):
        run(fails())


# -- callbacks -------------------------------------------------------------------------------------


def test_an_exception_in_a_callback_is_logged_and_stops_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    reached: list[str] = []

    def fails() -> None:
        raise ValueError("found by a test")

    for where in (engine.later, engine.at_end_of_turn, lambda call: engine.after(0, call)):
        where(fails)
        where(lambda: reached.append("next"))
    engine.turn(0)
    engine.turn(0)
    assert reached == ["next"] * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 3


def test_the_end_of_a_turn_comes_after_all_its_work(engine: Engine) -> None:
    order: list[str] = []
    engine.at_end_of_turn(lambda: order.append("end"))
    engine.later(lambda: order.append("posted"))
    engine.after(0, lambda: order.append("timer"))
    engine.turn(0)
    assert order == ["posted", "timer", "end"]


def test_what_a_callback_posts_waits_for_the_next_turn(engine: Engine) -> None:
    """Else a device that always has more to do would keep the engine from the others."""
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        engine.later(again)

    engine.later(again)
    for turn in range(1, 4):
        engine.turn(0)
        assert count == turn


def test_later_may_be_called_by_any_thread(engine: Engine) -> None:
    calls: list[int] = []

    def post(n: int) -> None:
        for _ in range(2000):
            engine.later(lambda: calls.append(n))

    threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    assert engine.run_until(lambda: len(calls) == 8000)
    for thread in threads:
        thread.join()
    assert sorted(calls) == sorted(list(range(4)) * 2000)


def test_a_post_wakes_an_engine_that_sleeps(engine: Engine) -> None:
    thread = threading.Thread(target=engine.run)
    thread.start()
    for _ in range(200):
        heard = threading.Event()
        engine.later(heard.set)
        assert heard.wait(2)
    engine.stop()
    thread.join(2)
    assert not thread.is_alive()


def test_a_stop_before_the_run_is_not_forgotten(engine: Engine) -> None:
    engine.stop()
    thread = threading.Thread(target=engine.run)
    thread.start()
    thread.join(2)
    assert not thread.is_alive()


# -- descriptors -----------------------------------------------------------------------------------


def test_a_watched_descriptor_calls_until_it_is_read(engine: Engine) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    calls: list[int] = []
    engine.watch(fd, lambda: calls.append(1))
    os.eventfd_write(fd, 1)
    engine.turn(0)
    engine.turn(0)
    assert len(calls) == 2
    os.eventfd_read(fd)
    engine.turn(0)
    assert len(calls) == 2
    engine.unwatch(fd)
    os.eventfd_write(fd, 1)
    engine.turn(0)
    assert len(calls) == 2
    engine.unwatch(fd)  # twice is nothing
    os.close(fd)


def test_an_edge_calls_once_for_each_arrival(engine: Engine) -> None:
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    calls: list[int] = []
    engine.watch(fd, lambda: calls.append(1), edge=True)
    for expected in (1, 2, 3):
        os.eventfd_write(fd, 1)
        engine.turn(0)
        engine.turn(0)
        assert len(calls) == expected
    engine.unwatch(fd)
    os.close(fd)


def test_one_callback_may_unwatch_the_others(engine: Engine) -> None:
    fds = [os.eventfd(1, os.EFD_NONBLOCK) for _ in range(3)]
    calls: list[int] = []

    def stop_all() -> None:
        calls.append(1)
        for fd in fds:
            engine.unwatch(fd)

    for fd in fds:
        engine.watch(fd, stop_all)
    engine.turn(0)
    assert calls == [1]
    for fd in fds:
        os.close(fd)


# -- timers ----------------------------------------------------------------------------------------


def test_timers_come_in_the_order_they_are_due(engine: Engine) -> None:
    order: list[str] = []
    engine.after(0.02, lambda: order.append("late"))
    engine.after(0.0, lambda: order.append("early"))
    engine.after(0.01, lambda: order.append("middle")).cancel()
    assert engine.run_until(lambda: len(order) == 2, 2)
    assert order == ["early", "late"]


def test_a_turn_sleeps_no_longer_than_the_next_timer(engine: Engine) -> None:
    fired: list[float] = []
    started = time.monotonic()
    engine.after(0.05, lambda: fired.append(time.monotonic() - started))
    while not fired:
        engine.turn()
    assert 0.049 <= fired[0] < 10


def test_a_timer_that_sets_the_next_does_not_keep_the_engine(engine: Engine) -> None:
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        engine.after(0, again)

    engine.after(0, again)
    done: list[bool] = []
    engine.later(lambda: done.append(True))
    engine.turn(0)
    engine.turn(0)
    assert done
    assert count <= 3


def test_run_until_gives_up_in_time(engine: Engine) -> None:
    started = time.monotonic()
    assert not engine.run_until(lambda: False, 0.05)
    assert time.monotonic() - started < 10


def test_calls_that_hang_do_not_keep_the_workers_from_others() -> None:
    engine = Engine(workers=2)
    release = threading.Event()
    outcomes: list[str] = []
    for _ in range(6):
        engine.start(blocked(release), lambda value, error: outcomes.append("released"))
    engine.start(answers("here"), lambda value, error: outcomes.append(value))
    assert engine.run_until(lambda: outcomes == ["here"], 5)
    release.set()
    assert engine.run_until(lambda: len(outcomes) == 7, 5)
    engine.close()


def test_a_call_that_no_worker_has_begun_can_be_given_up() -> None:
    engine = Engine(workers=1)
    release = threading.Event()
    outcomes: list[BaseException | None] = []
    first = engine.start(blocked(release), lambda value, error: outcomes.append(error))
    second = engine.start(blocked(release), lambda value, error: outcomes.append(error))
    assert first is not None
    assert second is not None
    time.sleep(0.01)  # the worker has the first
    assert not first.cancel()
    assert second.cancel()
    assert isinstance(outcomes.pop(), Cancelled)
    release.set()
    assert engine.run_until(lambda: outcomes == [None], 5)
    engine.close()


async def blocked(release: threading.Event) -> None:
    await blocking(release.wait)


async def answers(word: str) -> str:
    return str(await blocking(lambda: word))
