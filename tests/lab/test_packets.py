"""Fault rules on what is in packets: SCSI's commands, by a DVD drive on an IDE channel."""

from __future__ import annotations

import pytest

from drivebay.ata.packet import PacketDevice
from drivebay.drivers.ide import IdeCd, IdeTimeout, PacketError
from drivebay.drivers.ide.cd import BLOCK
from drivebay.lab.ata import ATA, AtaFaults
from drivebay.lab.language import parse_rule
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.sense import UNRECOVERED_READ_ERROR
from tests.ide.support import Bench, filled, noise

CONTENT = noise(1 << 20, 1)


@pytest.fixture
def drive(engine: Engine) -> tuple[IdeCd, AtaFaults]:
    device = PacketDevice(Dvd(filled(1 << 20, 1)), engine)
    bench = Bench(engine, {(1, 0): device})
    bench.enable()
    driver = bench.driver()
    driver.channels[1].patience = 2000
    cd = driver.cd(1, 0)
    with pytest.raises(PacketError):  # the unit tells of its power
        cd.read(0, 1)
    return cd, AtaFaults({2: device}, engine, name="ide")


def rules(torment: AtaFaults, *texts: str) -> None:
    torment.faults.clear()
    for text in texts:
        torment.faults.add(parse_rule(text, ATA))


@pytest.mark.parametrize("dma", [True, False])
def test_a_sense(drive: tuple[IdeCd, AtaFaults], dma: bool) -> None:
    cd, torment = drive
    rules(
        torment, "read-10,nth=2:status=unrecovered-read-error", "read,nth=3:error=unrecovered-read"
    )
    assert cd.read(3, 2, dma=dma) == CONTENT[3 * BLOCK : 5 * BLOCK]
    for _ in range(2):
        with pytest.raises(PacketError) as failure:
            cd.read(3, 2, dma=dma)
        assert failure.value.sense[:3] == UNRECOVERED_READ_ERROR[:3]
    assert cd.read(3, 2, dma=dma) == CONTENT[3 * BLOCK : 5 * BLOCK]
    assert str(torment.faults.firings[0].subject) == "ide READ_10 port 2 lba 3+2"


def test_wrong_data_and_none(drive: tuple[IdeCd, AtaFaults]) -> None:
    cd, torment = drive
    rules(torment, "packet,direction=read,nth=1:corrupt=5", "read,nth=2:drop")
    wrong = int.from_bytes(cd.read(0, 4)) ^ int.from_bytes(CONTENT[: 4 * BLOCK])
    assert wrong.bit_count() == 5
    with pytest.raises(IdeTimeout):
        cd.read(0, 1)
    cd.channel.reset()
    rules(torment)
    with pytest.raises(PacketError):  # of the reset
        cd.read(0, 1)
    assert cd.read(0, 1) == CONTENT[:BLOCK]
    torment.close()
