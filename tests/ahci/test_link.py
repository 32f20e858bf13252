"""Links that come and go: hot plug, COMRESET, spin-up, sleep, and who owns the adapter."""

from __future__ import annotations

import gc
import os

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci.registers import (
    BOHC,
    Communication,
    Detection,
    PowerState,
    PxCMD,
    PxIS,
    PxSCTL,
    PxSERR,
    PxSSTS,
)
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciDriver, AhciTimeout
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.scsi.dvd import Dvd
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import filled, noise

from .conftest import MakeBench
from .support import BAR, RAM_SIZE, Bench, Stubborn

MIB = 1 << 20


def test_hot_plug(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench()
    driver = bench.driver()
    port = driver.ports[3]
    assert not port.present and not bench.level
    assert port.get("SSTS") == 0 and port.get("TFD") == 0x7F and port.get("SIG") == 0xFFFFFFFF
    drive = AtaDisk(filled(MIB, 1), engine)
    bench.ahci.attach(3, drive)
    assert bench.level and driver.get("IS") == 8
    happened = PxIS(port.get("IS"))
    assert happened.PCS and happened.PRCS
    assert PxSERR(port.get("SERR")) == PxSERR.of(X=1, N=1)
    port.put("IS", 0xFFFFFFFF)
    assert bench.level  # they show what PxSERR says
    port.acknowledge()
    assert not bench.level
    port.bring_up()
    assert driver.disk(3).read(0, 1) == noise(MIB, 1)[:512]

    assert bench.ahci.detach(3) is drive
    assert bench.level and PxIS(port.get("IS")) == PxIS.of(PRCS=1)
    assert port.get("SSTS") == 0 and port.get("SIG") == 0xFFFFFFFF
    assert drive.wire is None and drive.sata is None
    port.stop()
    port.acknowledge()
    bench.ahci.attach(3, PacketDevice(Dvd(None), engine))
    assert port.get("SIG") == 0xEB140101
    port.bring_up()
    driver.cd(3).identify()
    with pytest.raises(ValueError, match="has a drive"):
        bench.ahci.attach(3, drive)


def test_pulled_while_it_works(make_bench: MakeBench, engine: Engine) -> None:
    puppet = PuppetDisk(RamDisk(MIB))
    drive = AtaDisk(puppet, engine)
    bench = make_bench({0: drive})
    disk = bench.driver().disk(0)
    for tag in range(8):
        disk.prepare_read(tag, tag, 8)
    disk.port.issue(0xFF, queued=True)
    held = puppet.wait(8)
    bench.ahci.detach(0)
    assert all(operation.cancelled for operation in held)
    assert PxIS(disk.port.get("IS")).PRCS
    disk.port.stop()
    assert disk.port.get("CI") == disk.port.get("SACT") == 0
    bench.ahci.attach(0, drive)
    disk.port.bring_up()
    puppet.holds = lambda *_: False
    assert disk.read_queued([(0, 1)]) == [bytes(512)]


def test_pulled_though_it_cannot_be_called_back(make_bench: MakeBench, engine: Engine) -> None:
    """CR says so as long as memory is reached."""
    puppet = Stubborn(RamDisk(MIB))
    bench = make_bench({0: AtaDisk(puppet, engine)})
    disk = bench.driver().disk(0)
    disk.prepare_read(0, 0, 8)
    disk.port.issue(1, queued=True)
    puppet.wait(1)
    bench.ahci.detach(0)
    disk.port.put("CMD", disk.port.get("CMD") & ~PxCMD.ST)
    assert PxCMD(disk.port.get("CMD")).CR
    puppet.complete_all()
    engine.turn(0)
    assert not PxCMD(disk.port.get("CMD")).CR


def test_plugged_a_thousand_times(make_bench: MakeBench, engine: Engine) -> None:
    """hostile.md 2.3, CVE-2017-9373: what is pulled is let go."""
    bench = make_bench()
    driver = bench.driver()
    drive = AtaDisk(RamDisk(4096), engine)

    def once() -> None:
        bench.ahci.attach(0, drive)
        driver.ports[0].bring_up()
        driver.ports[0].stop()
        bench.ahci.detach(0)

    once()
    gc.collect()
    objects, files = len(gc.get_objects()), len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        once()
    gc.collect()
    assert len(gc.get_objects()) < objects + 100
    assert len(os.listdir("/proc/self/fd")) == files


def test_comreset_step_by_step(make_bench: MakeBench, engine: Engine) -> None:
    port = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver().ports[0]
    port.stop()
    port.put("SCTL", PxSCTL.of(DET=Detection.NO_COMMUNICATION))
    assert PxSSTS(port.get("SSTS")).DET == Detection.NO_COMMUNICATION
    assert port.get("TFD") & 0xFF == 0x7F and port.get("SIG") == 0xFFFFFFFF
    port.put("SCTL", 0)
    assert port.get("SSTS") == 0x133
    assert port.get("TFD") == 0x150 and port.get("SIG") == 0x101
    assert PxSERR(port.get("SERR")).X


def test_offline_and_slow(make_bench: MakeBench, engine: Engine) -> None:
    port = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver().ports[0]
    port.stop()
    port.put("SCTL", PxSCTL.of(DET=Detection.OFFLINE))
    assert port.get("SSTS") == Detection.OFFLINE
    port.put("SCTL", PxSCTL.of(DET=Detection.NO_COMMUNICATION, SPD=1))
    port.put("SCTL", PxSCTL.of(SPD=1))
    assert port.get("SSTS") == 0x113


def test_staggered_spin_up(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(RamDisk(MIB), engine)}, staggered=True)
    port = bench.port()
    assert port.read_PxSSTS() == 0
    driver = bench.driver()
    assert driver.capabilities >> 27 & 1
    assert driver.ports[0].present and driver.disk(0).read(0, 1) == bytes(512)
    driver.reset()
    assert not driver.ports[0].present
    driver.ports[0].bring_up()
    assert driver.disk(0).read(0, 1) == bytes(512)


def test_link_power(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver().disk(0)
    port = disk.port

    def ask(power: int) -> PowerState:
        port.put("CMD", port.get("CMD") & ~PxCMD.ICC | power << 28)
        assert not PxCMD(port.get("CMD")).ICC
        return PxSSTS(port.get("SSTS")).IPM

    assert ask(Communication.SLUMBER) == PowerState.SLUMBER
    assert disk.read(0, 1) == bytes(512)
    assert PxSSTS(port.get("SSTS")).IPM == PowerState.ACTIVE
    assert ask(Communication.PARTIAL) == PowerState.PARTIAL
    assert ask(Communication.ACTIVE) == PowerState.ACTIVE
    port.put("SCTL", PxSCTL.of(IPM=3))
    assert ask(Communication.SLUMBER) == PowerState.ACTIVE
    assert ask(Communication.DEV_SLEEP) == PowerState.ACTIVE
    port.put("CMD", port.get("CMD") | PxCMD.ALPE | PxCMD.ASP)
    assert PxCMD(port.get("CMD")).ALPE and PxCMD(port.get("CMD")).ASP
    assert disk.read(0, 1) == bytes(512)


def test_handoff(make_bench: MakeBench) -> None:
    bench = make_bench()
    driver = bench.driver()
    assert driver.get("CAP2") & 1
    assert driver.get("BOHC") == BOHC.of(OOS=1, OOC=1)  # it has taken over
    driver.put("BOHC", BOHC.of(OOC=1, BOS=1))
    assert driver.get("BOHC") == BOHC.of(BOS=1)
    driver.take_over()
    assert driver.get("BOHC") == BOHC.of(OOS=1, OOC=1)
    driver.put("BOHC", BOHC.of(OOS=1, OOC=1))
    assert driver.get("BOHC") == BOHC.of(OOS=1)


def test_unknown_fis(make_bench: MakeBench, engine: Engine) -> None:
    bench = make_bench({0: AtaDisk(RamDisk(MIB), engine)})
    port = bench.driver().ports[0]
    bench.port().receive_unknown(b"\xc7" + bytes(range(63)))
    assert PxIS(port.get("IS")).UFS and bench.level
    assert bytes(port.memory.view(port.received + 0x60, 4)) == b"\xc7\x00\x01\x02"
    port.acknowledge()
    assert not bench.level


def test_port_multipliers_do_not_answer(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver(patience=20).disk(0)
    port = disk.port
    disk.prepare_read(0, 0, 1)
    port.memory.view(port.table(0) + 1, 1)[0] |= 0x0F
    port.issue(1)
    assert PxIS(port.get("IS")).IPMS
    with pytest.raises(AhciTimeout):
        port.wait(lambda: not port.get("CI"), "nobody answers")
    port.restart()
    assert disk.read(0, 1) == bytes(512)


def test_64_bit_addresses(engine: Engine) -> None:
    """Memory past 4 GiB: lists, FISes, tables and data."""
    base = 5 << 40
    low = GuestMemory.of_size(RAM_SIZE)
    high = GuestMemory([Region(base, low.regions[0].view)])
    bench = Bench(engine, {0: AtaDisk(filled(MIB, 2), engine)}, high)
    bench.enable()
    from drivebay.drivers.arena import Arena

    arena = Arena(high, base + 4096, RAM_SIZE - 4096)
    disk = AhciDriver(bench.mmio, BAR, arena, poll=lambda: engine.turn(0)).disk(0)
    assert disk.port.get("CLBU") == disk.port.get("FBU") == base >> 32
    assert disk.read_queued([(5, 3)]) == [noise(MIB, 2)[5 * 512 : 8 * 512]]
