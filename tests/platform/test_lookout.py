"""Looking out for what comes without waking us."""

from __future__ import annotations

import os
import time

import pytest

from drivebay.platform import engine as engine_module
from drivebay.platform.engine import Engine, Lookout


class Guest:
    """Somebody whose work is looked out for: it comes at the `at`-th look, if ever."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.looks = at, 0

    def came(self) -> bool:
        self.looks += 1
        return self.looks == self.at


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else uses the CPU, whatever the clock says."""
    monkeypatch.setattr(engine_module, "GAP", 60.0)


def looks(lookout: Lookout) -> bool:
    """Whether it looks at all, where there is nothing to see."""
    guest = Guest()
    assert not lookout(guest.came)
    return guest.looks > 0


@pytest.mark.usefixtures("alone")
def test_a_lookout_that_never_pays_is_left_out_more_and_more_often(engine: Engine) -> None:
    lookout = Lookout(engine)
    looked = [n for n in range(5000) if looks(lookout)]
    assert looked[:5] == [0, 4, 20, 84, 148]
    assert looked[-1] - looked[-2] == engine_module.MOST_LEFT_OUT + 1


@pytest.mark.usefixtures("alone")
def test_a_lookout_that_pays_is_never_left_out(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookout = Lookout(engine)
    assert looks(lookout)
    assert [looks(lookout) for _ in range(3)] == [False] * 3
    monkeypatch.setattr(lookout, "_moment", 60.0)
    for at in (1, 2, 9):
        assert lookout(Guest(at).came)


def test_a_lookout_backs_off_where_others_want_the_cpu(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookout = Lookout(engine)
    monkeypatch.setattr(os, "sched_yield", lambda: time.sleep(0.001))
    assert lookout(Guest(1).came), "they were the guest, and its work came"
    assert not looks(lookout)


def test_others_may_have_a_part_of_a_lookout(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookout = Lookout(engine, 60.0)
    monkeypatch.setattr(os, "sched_yield", lambda: time.sleep(0.001))
    assert lookout(Guest(9).came)
    nobody = Guest()
    assert not Lookout(engine, 0.1)(nobody.came)
    assert nobody.looks <= 26, "a quarter of its time is gone"


@pytest.mark.usefixtures("alone")
def test_nobody_waits_for_a_lookout(engine: Engine) -> None:
    fds = [os.eventfd(1), os.eventfd(1)]
    lookouts = [Lookout(engine, 60.0), Lookout(engine, 60.0)]
    seen: list[bool] = []
    for fd, lookout in zip(fds, lookouts, strict=True):
        engine.watch(fd, lambda lookout=lookout: seen.append(looks(lookout)), edge=True)  # type: ignore[misc]
    engine.at_end_of_turn(lambda: None)
    engine.turn(0)
    assert seen == [True, True]
    engine.later(lambda: None)
    assert looks(lookouts[0]), "it was not left out, since it was not to blame"
    for fd in fds:
        engine.unwatch(fd)
        os.close(fd)
