"""Fault rules on a floppy controller, seen by its driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drivebay.disk.scanner import SpecError
from drivebay.drivers.floppy import FloppyDisk
from drivebay.drivers.floppy.errors import FloppyError, FloppyTimeout
from drivebay.lab.floppy import FLOPPY, FloppyFaults
from drivebay.lab.language import parse_rule
from drivebay.platform.engine import Engine
from tests.floppy.support import Bench, noise

CONTENT = noise(1440 << 10)


class Rig:
    """Drive A, its driver, and rules."""

    def __init__(self, engine: Engine) -> None:
        self.bench = Bench(engine)
        self.disk: FloppyDisk = self.bench.disk()
        self.torment = FloppyFaults(self.bench.fdc, engine)

    def rules(self, *texts: str) -> None:
        self.torment.faults.clear()
        for text in texts:
            self.torment.faults.add(parse_rule(text, FLOPPY))


@pytest.fixture
def rig(engine: Engine) -> Iterator[Rig]:
    rig = Rig(engine)
    yield rig
    rig.torment.close()
    if rig.bench.fdc.drives[0].disk is not None:  # type: ignore[union-attr]
        disk = rig.bench.disk()
        disk.recalibrate()
        assert disk.read(0, 18) == CONTENT[:9216]


def test_a_status(rig: Rig) -> None:
    rig.rules("read,nth=2:status=de", "read,sector=5:status=ma")
    assert rig.disk.read(0, 1) == CONTENT[:512]
    with pytest.raises(FloppyError):
        rig.disk.read(0, 1)
    with pytest.raises(FloppyError):
        rig.disk.read(4, 1)
    assert [str(firing.subject) for firing in rig.torment.faults.firings] == [
        "floppy READ_DATA drive 0",
        "floppy READ_DATA drive 0",
    ]


@pytest.mark.parametrize("action", ["drop", "ignore", "die", "lose-interrupt"])
def test_an_end_that_nobody_hears_of(rig: Rig, action: str) -> None:
    rig.rules(f"read,nth=1:{action}")
    with pytest.raises(FloppyTimeout):
        rig.disk.read(0, 1)


def test_hold_and_delay(rig: Rig) -> None:
    rig.rules("read,nth=1:delay=1ms", "read,nth=2:hold")
    before = rig.bench.engine.now
    assert rig.disk.read(0, 1) == CONTENT[:512]
    assert rig.bench.engine.now - before >= 0.001
    with pytest.raises(FloppyTimeout):
        rig.disk.read(0, 1)
    assert rig.torment.faults.release() == 1
    rig.bench.engine.turn(0)
    assert len(rig.bench.result()) == 7  # late, but all of it


def test_the_disk_is_taken_out(rig: Rig) -> None:
    rig.rules("read,nth=2:remove")
    assert rig.disk.read(0, 1) == CONTENT[:512]
    assert rig.disk.read(0, 1) == CONTENT[:512]  # the last that acts
    rig.bench.engine.turn(0)
    with pytest.raises(FloppyError):
        rig.disk.read(0, 1)


@pytest.mark.parametrize("text", ["read:corrupt", "read,lba=0:drop", "read:rewrite,cylinder=1"])
def test_what_a_floppy_has_not(text: str) -> None:
    with pytest.raises(SpecError):
        parse_rule(text, FLOPPY)
