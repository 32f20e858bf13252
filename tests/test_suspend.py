"""What coroutines wait with: promises, locks, and each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from drivebay.platform.engine import Engine
from drivebay.suspend import DONE, Cancelled, Gate, Lock, Promise, blocking, run, together

Drive = Callable[[Coroutine[Any, Any, Any]], Any]


def on_an_engine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    engine = Engine(workers=2)
    ends: list[tuple[Any, BaseException | None]] = []
    engine.start(coroutine, lambda value, error: ends.append((value, error)))
    assert engine.run_until(lambda: bool(ends))
    engine.close()
    value, error = ends[0]
    if error is not None:
        raise error
    return value


drivers = pytest.mark.parametrize("drive", [run, on_an_engine])


@drivers
def test_a_promise_given_before_or_after_it_is_awaited_gives_the_same(drive: Drive) -> None:
    early, late = Promise[int](), Promise[int]()
    early.give(1)
    early.give(2)

    async def both() -> int:
        threading.Timer(0.01, late.give, [10]).start()
        return await early + await late

    assert drive(both()) == 11


@drivers
def test_a_promise_can_fail(drive: Drive) -> None:
    promise = Promise[int]()
    promise.fail(ValueError("no"))

    async def wait() -> int:
        return await promise

    with pytest.raises(ValueError, match="no"):
        drive(wait())


@drivers
def test_together_operations_go_side_by_side_and_a_lock_keeps_them_apart(drive: Drive) -> None:
    lock = Lock()
    inside: list[int] = []
    order: list[int] = []

    async def one(number: int) -> None:
        await blocking(lambda: None)
        async with lock:
            inside.append(number)
            assert len(inside) == 1
            await blocking(lambda: None)
            order.append(inside.pop())

    async def meet() -> None:
        a, b = Promise[None](), Promise[None]()

        async def first() -> None:
            a.give(None)
            await b

        async def second() -> None:
            await a
            b.give(None)

        await together([first(), second(), DONE])
        await together(one(number) for number in range(8))

    drive(meet())
    assert sorted(order) == list(range(8))


@drivers
def test_together_raises_the_first_error_when_all_have_ended(drive: Drive) -> None:
    ended = []

    async def fails() -> None:
        await blocking(lambda: None)
        raise ValueError("first")

    async def goes_on() -> None:
        for _ in range(5):
            await blocking(lambda: None)
        ended.append(True)

    with pytest.raises(ValueError, match="first"):
        drive(together([goes_on(), fails()]))
    assert ended == [True]


def test_cancelled_together_all_clean_up_and_the_lock_is_free() -> None:
    engine = Engine(workers=0)
    lock, never = Lock(), Promise[None]()
    cleaned: list[str] = []
    ends: list[BaseException | None] = []

    async def hold(name: str) -> None:
        try:
            async with lock:
                await never
        finally:
            cleaned.append(name)

    task = engine.start(together([hold("a"), hold("b")]), lambda value, error: ends.append(error))
    assert task is not None
    engine.turn(0)
    assert task.cancel()
    assert isinstance(ends[0], Cancelled)
    assert sorted(cleaned) == ["a", "b"]

    async def enter() -> bool:
        async with lock:
            return True

    assert run(enter())
    engine.close()


def test_what_cannot_be_given_up_ends_before_together_does() -> None:
    engine = Engine(workers=1)
    go, started = threading.Event(), threading.Event()
    ends: list[BaseException | None] = []
    work: list[str] = []

    def system_call() -> None:
        started.set()
        go.wait(5)
        work.append("done")

    async def busy() -> None:
        await blocking(system_call)

    async def idle() -> None:
        try:
            await Promise[None]()
        finally:
            await blocking(lambda: work.append("cleaned"))

    task = engine.start(together([busy(), idle()]), lambda value, error: ends.append(error))
    assert task is not None
    assert started.wait(5)
    assert not task.cancel()
    go.set()
    assert engine.run_until(lambda: bool(ends))
    assert isinstance(ends[0], Cancelled)
    assert work == ["done", "cleaned"]
    engine.close()


def test_who_wants_to_be_alone_waits_for_the_others_and_they_for_him() -> None:
    gate = Gate()
    log: list[str] = []
    first, second, alone = Promise[None](), Promise[None](), Promise[None]()

    async def beside(name: str, wait: Promise[None]) -> None:
        async with gate:
            log.append(name)
            await wait

    async def by_himself(name: str, wait: Promise[None]) -> None:
        async with gate.alone():
            assert not gate.inside
            log.append(name)
            await wait

    async def give() -> None:
        await blocking(lambda: None)
        assert (log, gate.closed, gate.inside) == (["a", "b"], True, 2)
        first.give(None)
        second.give(None)
        await blocking(lambda: None)
        alone.give(None)

    def done() -> Promise[None]:
        promise = Promise[None]()
        promise.give(None)
        return promise

    run(
        together(
            [
                beside("a", first),
                beside("b", second),
                by_himself("alone", alone),
                beside("c", done()),
                by_himself("last", done()),
                beside("d", done()),
                give(),
            ]
        )
    )
    assert log == ["a", "b", "alone", "c", "d", "last"]
    assert (gate.closed, gate.inside, gate.entered) == (False, 0, 4)


def test_a_gate_whose_visitors_are_given_up_is_open() -> None:
    engine = Engine(workers=0)
    gate, never = Gate(), Promise[None]()
    ends: list[BaseException | None] = []

    async def beside() -> None:
        async with gate:
            await never

    async def by_himself() -> None:
        async with gate.alone():
            raise AssertionError

    group = together([beside(), by_himself(), by_himself(), beside()])
    task = engine.start(group, lambda value, error: ends.append(error))
    assert task is not None
    engine.turn(0)
    assert (gate.closed, gate.inside) == (True, 1)
    assert task.cancel()
    assert isinstance(ends[0], Cancelled)
    assert (gate.closed, gate.inside) == (False, 0)
    engine.close()
