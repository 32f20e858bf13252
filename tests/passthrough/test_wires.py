"""The same drive behind IDE and AHCI ports, worked by the guest's drivers."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Callable

import pytest

from drivebay.ata.passthrough import PassthroughDrive, Policy, RecordedAnswers, Recorder, identify
from drivebay.drivers.ahci import AhciDriver, AhciError
from drivebay.drivers.ide import By, IdeDriver, IdeError, Via
from drivebay.platform.engine import Engine
from tests.ahci.support import Bench as AhciBench
from tests.ide.support import Bench as IdeBench
from tests.ide.support import content, filled, noise

from .support import Rig

WAYS = [(via, by) for via in (Via.PIO, Via.DMA) for by in (By.CHS, By.LBA28, By.LBA48)]


def ide(engine: Engine, rig: Rig) -> IdeDriver:
    """A driver, the drive being the second of the first channel."""
    bench = IdeBench(engine, {(0, 1): rig.drive})
    bench.enable()
    return bench.driver()


def ahci(engine: Engine, rig: Rig) -> AhciDriver:
    bench = AhciBench(engine, {2: rig.drive})
    bench.enable()
    return bench.driver()


@pytest.mark.parametrize(("via", "by"), WAYS)
def test_ide_reads_and_writes_by_every_way(engine: Engine, via: Via, by: By) -> None:
    rig = Rig(engine, filled(1 << 20))
    disk = ide(engine, rig).disk(0, 1)
    model = bytearray(content(rig.disk))
    for lba, count in ((0, 1), (100, 40), (63, 200), (2015, 1)):
        start, size = lba * 512, count * 512
        assert disk.read(lba, count, via, by) == model[start : start + size]
        model[start : start + size] = noise(size, lba)
        disk.write(lba, noise(size, lba), via, by)
    assert content(rig.disk) == model


def test_ide_multiple(engine: Engine) -> None:
    rig = Rig(engine, filled(1 << 20))
    disk = ide(engine, rig).disk(0, 1)
    disk.set_multiple(8)
    assert disk.read(5, 20, Via.MULTIPLE) == content(rig.disk)[2560:12800]
    disk.write(5, noise(10240), Via.MULTIPLE)
    assert content(rig.disk)[2560:12800] == noise(10240)


def test_ide_scatter_goes_as_one_command(engine: Engine) -> None:
    rig = Rig(engine, filled(1 << 20))
    driver = ide(engine, rig)
    disk = driver.disk(0, 1)
    rig.sat.log.clear()
    disk.read_into([(0x20000, 512), (0x40000, 1024), (0x60002, 510), (0x70000, 2)], 3, 4)
    assert len(rig.sent) == 1
    memory = driver.channels[0].memory
    got = b"".join(
        bytes(memory.view(at, size))
        for at, size in ((0x20000, 512), (0x40000, 1024), (0x60002, 510), (0x70000, 2))
    )
    assert got == content(rig.disk)[1536:3584]


def test_ide_tells_errors(engine: Engine) -> None:
    rig = Rig(engine)
    disk = ide(engine, rig).disk(0, 1)
    for via in (Via.PIO, Via.DMA):
        with pytest.raises(IdeError) as caught:
            disk.read(2047, 2, via, By.LBA48)
        assert caught.value.error.IDNF
    rig.sat.instead = [OSError(errno.ENODEV, "pulled")]
    with pytest.raises(IdeError) as caught:
        disk.read(0, 1)
    assert caught.value.error.ABRT
    assert disk.read(0, 1) == bytes(512)
    assert disk.read_native_max() == 2047
    assert disk.check_power_mode() == 0xFF
    assert not disk.smart_failing()


def test_ide_read_only(engine: Engine) -> None:
    rig = Rig(engine, filled(1 << 20), policy=None)
    before = content(rig.disk)
    disk = ide(engine, rig).disk(0, 1)
    for via in (Via.PIO, Via.DMA):
        with pytest.raises(IdeError) as caught:
            disk.write(0, bytes(512), via)
        assert caught.value.error.ABRT
        assert disk.read(0, 1, via) == before[:512]
    assert content(rig.disk) == before


def test_ahci(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(engine, filled(1 << 20))
    disk = ahci(engine, rig).disk(2)
    identity = disk.identify()
    assert identity.serial == "REAL"
    assert identity.words.queue_depth_z == 0
    disk.write(100, noise(51200))
    assert content(rig.disk)[51200:102400] == noise(51200)
    assert disk.read(100, 100) == noise(51200)
    assert disk.read(7, 200, 0x24) == content(rig.disk)[3584:][:102400]  # PIO by FIS
    disk.flush()
    with pytest.raises(AhciError):
        disk.read(2047, 2)
    disk.port.restart()
    assert disk.read(2047, 1) == content(rig.disk)[-512:]
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_ahci_queued_commands_are_refused(engine: Engine) -> None:
    rig = Rig(engine, filled(1 << 20))
    disk = ahci(engine, rig).disk(2)
    with pytest.raises(AhciError):
        disk.read_queued([(0, 1)])
    assert 0x60 not in rig.sent


@pytest.mark.parametrize("wire", [ide, ahci])
def test_recorded_answers_serve_as_the_drive(
    engine: Engine, wire: Callable[[Engine, Rig], IdeDriver | AhciDriver]
) -> None:
    """A session on the simulated drive, and again on what it answered."""
    tape = io.StringIO()
    rig = Rig(engine, filled(1 << 20))
    first = _session(wire, engine, rig, Recorder(rig.sat, tape.write))
    rig.sat.log.clear()
    again = _session(wire, engine, rig, RecordedAnswers(tape.getvalue().splitlines()))
    assert again == first
    assert rig.sent == []


def _session(
    wire: Callable[[Engine, Rig], IdeDriver | AhciDriver],
    engine: Engine,
    rig: Rig,
    transport: Recorder | RecordedAnswers,
) -> list[bytes]:
    identity = identify(transport)
    rig.drive = PassthroughDrive(transport, engine, identity, Policy())
    driver = wire(engine, rig)
    disk = driver.disk(0, 1) if isinstance(driver, IdeDriver) else driver.disk(2)
    return [disk.identify().raw, disk.read(3, 5), disk.read(0, 255)]
