"""Who is told, how often, and by what."""

from __future__ import annotations

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ahci.registers import CccCtl
from drivebay.disk.backends.ram import RamDisk
from drivebay.platform.engine import Engine
from drivebay.platform.pci_messages import MsiCapability, MsiControl, MsiRegisters
from drivebay.testing.puppet import PuppetDisk

from .conftest import MakeBench


def test_completions_of_a_turn_share_a_fis_and_an_interrupt(
    make_bench: MakeBench, engine: Engine
) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    bench = make_bench({0: AtaDisk(puppet, engine)})
    disk = bench.driver().disk(0)
    for tag in range(32):
        disk.prepare_read(tag, tag, 1)
    disk.port.issue(0xFFFFFFFF, queued=True)
    held = puppet.wait(32)
    assert disk.port.get("CI") == 0
    assert disk.port.get("SACT") == 0xFFFFFFFF
    assert not bench.level
    bench.interrupts.clear()
    for operation in held[4:20]:
        operation.complete()
    engine.turn(0)
    assert disk.port.get("SACT") == 0xFFE0001F  # slot 1 was the next in turn
    assert bench.interrupts == [True]
    disk.port.finish(0x001FFFE0)
    assert bench.interrupts == [True, False]
    puppet.complete_all()
    disk.port.finish(0xFFFFFFFF)
    assert bench.interrupts == [True, False, True, False]


def test_messages(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(RamDisk(1 << 20), engine)})
    driver = bench.driver()
    disk = driver.disk(0)
    msi = bench.ahci.msi
    assert isinstance(msi, MsiCapability)
    sent: list[int] = []
    msi.take = sent.append
    at = msi.offset + MsiRegisters.Control.offset
    bench.ahci.config_write(at, 2, MsiControl.of(Enable=1))
    bench.interrupts.clear()
    port = disk.port

    def read() -> None:
        disk.prepare_read(0, 0, 1)
        port.issue(1, queued=True)

    read()
    assert sent == [0]
    read()  # nobody has cleared anything: it was told
    assert sent == [0]
    driver.put("IS", 1)  # the wrong way round: PxIS still says so
    assert sent == [0, 0]
    port.put("IS", port.get("IS"))
    driver.put("IS", 1)
    assert sent == [0, 0]
    read()
    assert sent == [0, 0, 0]
    assert not bench.interrupts


def test_coalescing(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(RamDisk(1 << 20), engine)}, ports=4)
    driver = bench.driver(polled=True)
    disk = driver.disk(0)
    disk.port.put("IE", 0)
    driver.put("GHC", driver.get("GHC") | 2)
    driver.put("CCC_PORTS", 0xFFFFFFFF)
    assert driver.get("CCC_PORTS") == 0xF
    driver.put("CCC_CTL", CccCtl.of(TV=5, CC=8, INT=31, EN=1))
    assert CccCtl(driver.get("CCC_CTL")).INT == 4
    disk.read_queued([(0, 1)] * 7)
    assert not bench.level
    disk.read(0, 1)
    assert bench.level
    assert driver.get("IS") == 1 << 4
    driver.put("IS", 1 << 4)
    assert not bench.level
    disk.flush()
    assert not bench.level
    bench.wait(lambda: bench.level)  # 5 ms later
    driver.put("IS", 1 << 4)
    driver.put("CCC_CTL", 0)
    disk.read_queued([(0, 1)] * 32)
    assert not bench.level
