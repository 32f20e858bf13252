"""How an end is told: without an interrupt, twice, by a drive that has gone."""

from __future__ import annotations

import pytest

from drivebay.lab.language import parse_rule
from drivebay.lab.scsi import SCSI, ScsiFaults
from drivebay.platform.engine import Engine
from drivebay.scsi.target import Target
from tests.ide.support import noise
from tests.virtio.bench import SPLIT

from .rigs import MIB, RIGS, AhciRig, Failed, Lost, NvmeRig, ScsiRig, StorVspRig, VirtioRig

ORIGINAL = noise(MIB, 1)


def test_virtio_loses_an_interrupt(engine: Engine) -> None:
    rig = VirtioRig(engine)
    rig.rules("read,nth=2:lose-interrupt")
    seen = []
    for _ in range(3):
        rig.bench.levels.clear()
        assert rig.read(0, 8) == ORIGINAL[:4096]  # it polls
        seen.append(True in rig.bench.levels)
        rig.settle()
    assert seen == [True, False, True]


def test_storvsp_loses_a_signal_and_tells_an_end_twice(engine: Engine) -> None:
    rig = StorVspRig(engine)
    rig.rules("read,nth=2:lose-interrupt")
    seen = []
    for _ in range(3):
        rig.driver.channel.ring.unmask()
        rig.bench.signals.clear()
        assert rig.read(0, 8) == ORIGINAL[:4096]  # it looks into the ring, too
        rig.settle()
        seen.append(bool(rig.bench.signals))
    assert seen == [True, False, True]
    rig.rules("read,nth=1:duplicate")
    with pytest.raises(AssertionError, match="a second completion"):  # of the driver's
        rig.driver.start(bytes.fromhex("28000000000000000100"), 512)
        rig.settle()
        rig.driver.channel.take()


@pytest.mark.parametrize("name", ["ahci", "ahci-ncq"])
def test_a_sata_drive_loses_an_interrupt(name: str, engine: Engine) -> None:
    rig = RIGS[name](engine)
    assert isinstance(rig, AhciRig)
    rig.rules("read,nth=2:lose-interrupt")
    seen = []
    for _ in range(3):
        rig.bench.interrupts.clear()
        assert rig.read(0, 8) == ORIGINAL[:4096]  # it looks at the port, too
        seen.append(True in rig.bench.interrupts)
    assert seen == [True, False, True]


@pytest.mark.parametrize("name", ["ide", "ide-pio"])
def test_an_ide_drive_loses_an_interrupt(name: str, engine: Engine) -> None:
    rig = RIGS[name](engine)
    rig.rules("read,nth=1:lose-interrupt")
    with pytest.raises(Lost):  # it waits for interrupts
        rig.read(0, 8)
    rig.reset()
    assert rig.read(0, 8) == ORIGINAL[:4096]


def test_a_target_loses_those_of_its_transport(engine: Engine) -> None:
    rig = ScsiRig(engine)
    rig.rules("read,nth=1:lose-interrupt")
    for _ in range(2):
        assert rig.read(0, 8) == ORIGINAL[:4096]
    assert rig.muted == 1
    with pytest.raises(ValueError, match="no transport"):
        ScsiFaults(Target(engine), engine, [parse_rule("read:die", SCSI)])


def test_virtio_tells_an_end_twice(engine: Engine) -> None:
    rig = VirtioRig(engine)
    rig.driver = rig.bench.driver(features=SPLIT)
    rig.rules("read,nth=1:duplicate")
    used = rig.driver.ring(0).take
    pending = rig.driver.submit(0, 0, 512)
    rig.settle()
    tokens = [token for token, _ in used()]
    assert len(tokens) == 2
    assert tokens[0] == tokens[1]
    assert pending.written is None
    rig.reset()
    assert rig.read(0, 8) == ORIGINAL[:4096]


def test_a_target_tells_an_end_twice(engine: Engine) -> None:
    rig = ScsiRig(engine)
    rig.rules("read,nth=1:duplicate")
    ends: list[object] = []
    memory = memoryview(bytearray(512))
    read = bytes.fromhex("28000000000000000100")
    rig.initiator.target.submit(0, read, 1, [memory], [], ends.append)
    rig.settle()
    assert len(ends) == 2


def test_a_drive_is_pulled(engine: Engine) -> None:
    rig = AhciRig(engine)
    rig.rules("read,nth=2:remove")
    assert rig.read(0, 8) == ORIGINAL[:4096]
    assert rig.read(8, 8) == ORIGINAL[4096:8192]  # the last that acts
    rig.settle()
    assert rig.bench.ahci.hba.ports[0].drive is None
    with pytest.raises((Failed, Lost)):
        rig.read(0, 8)


def test_a_namespace_and_a_unit_are_taken_away(engine: Engine) -> None:
    for rig in (NvmeRig(engine), ScsiRig(engine)):
        rig.rules("write,nth=1:remove")
        rig.write(0, bytes(512))
        rig.settle()
        with pytest.raises(Failed):
            rig.read(0, 8)
