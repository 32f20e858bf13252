"""Rationed logging."""

from __future__ import annotations

import logging

import pytest

from drivebay.platform.logs import RationedLog

log = logging.getLogger("rationed")


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("drivebay.platform.logs.time", clock)
    return clock


def test_a_burst_is_logged_and_the_rest_is_counted(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    rationed = RationedLog(log, burst=3, interval=5)
    for n in range(10):
        rationed.warning("line %d", n)
    assert caplog.messages == ["line 0", "line 1", "line 2"]
    clock.now += 5
    rationed.warning("line %s", "after")
    assert caplog.messages[3:] == ["line after (7 more were not logged)"]
    clock.now += 5
    rationed.warning("quiet")
    assert caplog.messages[4:] == ["quiet"]


def test_a_long_silence_gives_one_burst_and_no_more(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    rationed = RationedLog(log, burst=3, interval=5)
    clock.now += 1e6
    for _ in range(10):
        rationed.warning("line")
    assert len(caplog.messages) == 3


def test_an_hour_of_flood_is_a_line_every_interval(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    rationed = RationedLog(log, burst=10, interval=5)
    for _ in range(36000):
        clock.now += 0.1
        rationed.warning("line")
    assert 720 <= len(caplog.messages) <= 731


def test_an_error_keeps_its_traceback(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    rationed = RationedLog(log, burst=1)
    try:
        raise ValueError("x")
    except ValueError as error:
        for _ in range(5):
            rationed.error("bug in %s", "here", exc_info=error)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
