"""A controller is saved in the middle of things, and another goes on."""

from __future__ import annotations

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode
from drivebay.disk.errors import Medium, MediumError
from drivebay.drivers.ahci import AhciError
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import content, filled, noise

from .conftest import MakeBench

MIB = 1 << 20


@pytest.mark.parametrize(
    ("opcode", "count"),
    [
        (Opcode.READ_DMA_EXT, 8),
        (Opcode.WRITE_DMA_EXT, 8),
        (Opcode.READ_SECTORS_EXT, 600),
        (Opcode.WRITE_SECTORS_EXT, 4),
        (Opcode.FLUSH_CACHE_EXT, 0),
    ],
)
def test_while_the_disk_works(
    make_bench: MakeBench, engine: Engine, opcode: int, count: int
) -> None:
    """At every operation of the disk."""
    backend = filled(MIB, 1)
    puppet = PuppetDisk(backend, lambda *_: False)
    bench = make_bench({0: AtaDisk(puppet, engine)})
    driver = bench.driver(polled=True)
    port = driver.ports[0]
    size = max(count * 512, 512)
    at = port.buffer(0, size)
    write = opcode in (Opcode.WRITE_DMA_EXT, Opcode.WRITE_SECTORS_EXT)
    bench.memory.view(at, size)[:] = noise(size, 9)
    command = AtaCommand(opcode, 0, count, 4, 0x40, ext=True)
    regions = [(at + done, 2048) for done in range(0, count * 512, 2048)]
    puppet.holds = lambda *_: True
    port.prepare(0, command, regions, write=write)
    port.issue(1)
    seen = 0
    while puppet.held:
        seen += 1
        [held] = puppet.held
        bench = bench.replaced({0: AtaDisk(puppet, engine)})
        held.cancel()
        driver.mmio = bench.mmio
        [held] = puppet.held
        held.complete()
        engine.turn(0)
    assert seen
    port.finish(1)
    assert port.moved(0) == count * 512
    if write:
        assert content(backend)[4 * 512 :][: count * 512] == noise(size, 9)
    elif count:
        assert bench.memory.view(at, size) == noise(MIB, 1)[4 * 512 :][:size]


def test_a_failure_that_was_not_told_yet(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(filled(MIB, 1), lambda *_: False)
    bench = make_bench({0: AtaDisk(puppet, engine)})
    driver = bench.driver(polled=True)
    disk = driver.disk(0)
    puppet.holds = lambda *_: True
    for tag in range(4):
        disk.prepare_read(tag, tag, 1)
    disk.port.issue(0xF, queued=True)
    puppet.wait(4)[2].fail(MediumError(Medium.UNRECOVERED_READ, 3))
    with pytest.raises(AhciError):
        disk.port.finish(0xF)
    puppet.holds = lambda *_: False
    bench = bench.replaced({0: AtaDisk(puppet, engine)})
    driver.mmio = bench.mmio
    assert disk.recover().lba == 3
    assert disk.read_queued([(3, 1)]) == [noise(MIB, 1)[3 * 512 : 4 * 512]]


def test_bad_sectors_settings_and_packets(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench(
        {0: AtaDisk(filled(MIB, 1), engine), 1: PacketDevice(Dvd(filled(MIB, 2, 2048)), engine)}
    )
    driver = bench.driver(polled=True)
    disk, cd = driver.disk(0), driver.cd(1)
    cd.settle()
    disk.write_uncorrectable(9, 2)
    bench = bench.replaced(
        {0: AtaDisk(filled(MIB, 1), engine), 1: PacketDevice(Dvd(filled(MIB, 2, 2048)), engine)}
    )
    driver.mmio = bench.mmio
    with pytest.raises(AhciError) as failure:
        disk.read(10, 1)
    assert failure.value.error.UNC
    assert cd.read(1, 1) == noise(MIB, 2)[2048:4096]


def test_other_drives(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(filled(MIB, 1), engine)})
    with pytest.raises(ValueError, match="another drive"):
        bench.replaced({})
    with pytest.raises(ValueError, match="other ports"):
        bench.replaced({0: AtaDisk(filled(MIB, 1), engine)}, ports=2)
