"""Long work: its result, its errors, and what it says meanwhile."""

from __future__ import annotations

import builtins
import sys
import threading
from typing import Any

import pytest

from drivebay.cli import working
from drivebay.cli.working import Told, work
from drivebay.suspend import blocking, together


async def answer() -> int:
    number: int = await blocking(lambda: 42)
    return number


async def failing() -> None:
    await blocking(lambda: 1 // 0)


def test_work_gives_the_result_or_raises() -> None:
    assert work(answer()) == 42
    with pytest.raises(ZeroDivisionError):
        work(failing())


def test_work_waits_for_many_calls_at_once() -> None:
    barrier = threading.Barrier(4, timeout=30)

    async def one() -> None:
        await blocking(barrier.wait)

    work(together(one() for _ in range(4)))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_short_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Told("convert", 100, clock) as told:
        for clock.now in (0.5, 1.0, 1.9):
            told(30)
    assert capsys.readouterr().err == ""


def test_lines_now_and_then_where_there_is_no_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Told("convert", 1 << 20, clock) as told:
        for clock.now in (1.0, 2.0, 2.5, 6.9, 7.0, 8.0):
            told(1 << 17)
    assert capsys.readouterr().err.splitlines() == [
        "drivebay: convert: 25 % of 1M",
        "drivebay: convert: 62 % of 1M",
    ]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)


@pytest.mark.usefixtures("terminal")
def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    def watched(what: str, total: int) -> Any:
        bars.append(made(what, total))
        return bars[-1]

    made = working._bar
    monkeypatch.setattr(working, "_bar", watched)
    with Told("convert", 100, clock) as told:
        for clock.now in (1.0, 2.0, 3.0, 4.0):
            told(20)
    [bar] = bars
    assert bar.tasks[0].completed == 80
    assert bar.finished is False
    assert not bar.live.is_started


@pytest.mark.usefixtures("terminal")
def test_lines_where_there_is_no_rich(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    importing = builtins.__import__

    def without_rich(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ImportError(name)
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Told("compare", 0, clock) as told:
        clock.now = 3.0
        told(0)
    assert "compare: 0 % of" in capsys.readouterr().err
