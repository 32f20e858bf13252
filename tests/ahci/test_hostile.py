"""Resets with I/O held, slots that are used again, changing memory, and registers (hostile.md)."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.ata.registers import Opcode
from drivebay.controllers.ahci.registers import PORT_SIZE, PORTS_AT, PortRegisters, PxCMD
from drivebay.controllers.ahci.structures import CommandHeader
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import IoError
from drivebay.drivers.ahci import AhciDisk, AhciDriver, AhciError
from drivebay.drivers.ide.channel import AtaCommand
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from drivebay.testing.memory import FlippingMemory
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import filled, noise

from .conftest import MakeBench
from .support import BAR, RAM_SIZE, Bench, Stubborn

MIB = 1 << 20
CANARY = b"canary" * 100


def comreset(driver: AhciDriver) -> None:
    port = driver.ports[0]
    port.put("CMD", port.get("CMD") & ~PxCMD.ST)
    port.put("SCTL", 1)
    port.put("SCTL", 0)


def hba_reset(driver: AhciDriver) -> None:
    driver.put("GHC", 1)


def stop(driver: AhciDriver) -> None:
    port = driver.ports[0]
    port.put("CMD", port.get("CMD") & ~PxCMD.ST)


def software_reset(driver: AhciDriver) -> None:
    port = driver.ports[0]
    port.put("CMD", port.get("CMD") & ~PxCMD.ST)
    port.put("CMD", port.get("CMD") | PxCMD.CLO)
    port.put("CMD", port.get("CMD") | PxCMD.ST)
    for control in (4, 0):
        fis = bytes([0x27, 0]) + bytes(13) + bytes([control]) + bytes(4)
        port.fill(0, fis, flags=0x505 if control else 5)
        port.put("CI", 1)


RESETS: dict[str, Callable[[AhciDriver], None]] = {
    "stop": stop,
    "COMRESET": comreset,
    "HBA reset": hba_reset,
    "SRST": software_reset,
}
KINDS = ("dma", "pio", "queued", "flush")


def begin(disk: AhciDisk, kind: str, at: int, count: int) -> int:
    """Begin `count` commands, one or 32, that go to `at`; how many operations will be held."""
    port = disk.port
    if kind == "queued":
        for tag in range(count):
            disk.prepare_read(tag, 1 + tag, 1, [(at, 512)])
        port.issue((1 << count) - 1, queued=True)
        return count
    opcode = {"dma": Opcode.READ_DMA_EXT, "pio": Opcode.READ_SECTORS_EXT}.get(kind)
    command = AtaCommand(opcode or Opcode.FLUSH_CACHE_EXT, 0, 1, 1, 0x40, ext=True)
    for slot in range(count):
        port.prepare(slot, command, [(at, 512)] if opcode else [])
    port.issue((1 << count) - 1)
    return 1


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 32])
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("end", ["complete", "fail"])
def test_hostile_4_6_resets_with_io_held(
    make_bench: MakeBench,
    engine: Engine,
    reset: str,
    kind: str,
    count: int,
    stubborn: bool,
    end: str,
) -> None:
    """No late DMA once the registers say that it is over, no late interrupt; all works again."""
    backend = filled(MIB, 1)
    puppet = (Stubborn if stubborn else PuppetDisk)(backend)
    puppet.holds = lambda name, sector, _count: name == "flush" or sector > 0
    bench = make_bench({0: AtaDisk(puppet, engine)})
    driver = bench.driver()
    disk = driver.disk(0)
    port = disk.port
    at = driver.arena.take(4096)
    bench.memory.view(at, 600)[:] = CANARY
    held = puppet.wait(begin(disk, kind, at, count))
    RESETS[reset](driver)
    interrupts = len(bench.interrupts)

    def quiet() -> bool:
        return not port.get("CMD") & PxCMD.CR and not driver.get("GHC") & 1

    if reset in ("stop", "COMRESET", "HBA reset") and quiet():
        for operation in held:
            operation.complete() if end == "complete" else operation.fail(IoError(5, "late"))
        for _ in range(5):
            engine.turn(0)
        assert bench.memory.view(at, 600) == CANARY, "late DMA"
        if reset == "stop":
            assert not any(bench.interrupts[interrupts:]), "late interrupt"
    for operation in puppet.held:
        operation.complete()
        engine.turn(0)
    bench.wait(quiet) if reset != "SRST" else bench.wait(lambda: not port.get("TFD") & 0x88)
    assert reset == "SRST" or port.get("CI") == port.get("SACT") == 0
    puppet.holds = lambda *_: False
    driver.reset()
    port.bring_up()
    assert disk.read(7, 2) == noise(MIB, 1)[7 * 512 : 9 * 512]
    assert disk.read_queued([(9, 1)] * 32) == [noise(MIB, 1)[9 * 512 : 10 * 512]] * 32


def test_hostile_2_3_slots_are_used_again_after_errors(
    make_bench: MakeBench, engine: Engine
) -> None:
    """CVE-2016-1568: 32 queued commands whose tables lead nowhere, then the same slots."""
    disk = make_bench({0: AtaDisk(filled(MIB, 2), engine)}).driver().disk(0)
    for _ in range(3):
        for tag in range(32):
            disk.prepare_read(tag, tag, 1, [(RAM_SIZE + tag * 4096, 512)])
        disk.port.issue(0xFFFFFFFF, queued=True)
        with pytest.raises(AhciError) as failure:
            disk.port.finish(0xFFFFFFFF)
        assert failure.value.interrupts.HBFS
        disk.port.comreset()
        spans = [(tag, 1) for tag in range(32)]
        expected = [noise(MIB, 2)[tag * 512 :][:512] for tag in range(32)]
        assert disk.read_queued(spans) == expected


def test_hostile_2_2_srst_with_an_error_pending(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver().disk(0)
    for lba in (2048, 1 << 40):
        with pytest.raises(AhciError):
            disk.read_queued([(0, 1), (lba, 1)])
        disk.port.software_reset()
        assert disk.read_queued([(0, 1)]) == [bytes(512)]


def test_hostile_4_2_loops_and_self_reference(make_bench: MakeBench, engine: Engine) -> None:
    """Data into the command list, the received FISes, the command table and the PRD table."""
    bench = make_bench({0: AtaDisk(filled(MIB, 3), engine)})
    driver = bench.driver()
    disk = driver.disk(0)
    port = disk.port
    for target in (port.command_list, port.received, port.table(0), port.table(0) + 0x80):
        for opcode in (Opcode.READ_DMA_EXT, Opcode.READ_SECTORS_EXT, Opcode.READ_FPDMA_QUEUED):
            queued = opcode == Opcode.READ_FPDMA_QUEUED
            command = AtaCommand(opcode, 8 if queued else 0, 0 if queued else 8, 0, 0x40, ext=True)
            port.prepare(0, command, [(target, 512)] * 8)
            port.issue(1, queued=queued)
            for _ in range(20):
                engine.turn(0)
            driver.reset()
            port.bring_up()
    assert disk.read(1, 1) == noise(MIB, 3)[512:1024]


def test_hostile_4_3_everything_is_read_once(engine: Engine) -> None:
    """A header, a FIS and a table that change whenever somebody looks."""
    memory = FlippingMemory.of_size(RAM_SIZE)
    memory.armed = False
    bench = Bench(engine, {0: AtaDisk(filled(MIB, 4), engine)}, memory)
    bench.enable()
    disk = bench.driver().disk(0)
    port = disk.port
    at = port.buffer(0, 4096)
    for queued in (False, True):
        opcode = Opcode.READ_FPDMA_QUEUED if queued else Opcode.READ_DMA_EXT
        command = AtaCommand(opcode, 2 if queued else 0, 0 if queued else 2, 0, 0x40, ext=True)
        port.prepare(0, command, [(at, 512), (at + 512, 512)])
        watches = [
            memory.watch(port.table(0), length=20),
            memory.watch(port.table(0) + 0x80, length=16),
            memory.watch(port.table(0) + 0x90, length=16),
        ]
        original = [bytes(memory.view(w.address, w.length)) for w in watches]
        for watch, data in zip(watches, original, strict=True):
            watch._values = iter(lambda data=data: data, None)  # type: ignore[misc]
        memory.armed = True
        port.issue(1, queued=queued)
        memory.armed = False
        port.finish(1)
        assert [watch.views for watch in watches] == [1, 1, 1]
        memory.watches.clear()
        assert memory.view(at, 1024) == noise(MIB, 4)[:1024]


@pytest.mark.parametrize("sector_count", [2048])
def test_hostile_5_ranges(make_bench: MakeBench, engine: Engine, sector_count: int) -> None:
    disk = make_bench({0: AtaDisk(filled(MIB, 5), engine)}).driver().disk(0)
    n = sector_count
    for lba, count in ((0, 1), (n - 1, 1), (0, n)):
        assert disk.read(lba, count) == noise(MIB, 5)[lba * 512 :][: count * 512]
        assert disk.read_queued([(lba, count)]) == [noise(MIB, 5)[lba * 512 :][: count * 512]]
    for lba, count in ((n, 1), (n - 1, 2), ((1 << 48) - 1, 1), ((1 << 48) - 1, 65536), (0, n + 1)):
        with pytest.raises(AhciError) as failure:
            disk.read(lba, count)
        assert failure.value.error.IDNF
        disk.port.restart()
        with pytest.raises(AhciError) as failure:
            disk.read_queued([(lba, count)])
        assert failure.value.error.IDNF
        assert disk.recover().tag == 0


def test_hostile_4_1_every_opcode(make_bench: MakeBench, engine: Engine) -> None:
    """On a disk and on an empty DVD drive, with a packet and without; then both still work."""
    bench = make_bench({0: AtaDisk(filled(MIB, 6), engine), 1: PacketDevice(Dvd(None), engine)})
    driver = bench.driver()
    for number in (0, 1):
        port = driver.ports[number]
        at = port.buffer(0, 65536)
        for opcode in range(256):
            for packet in (b"", b"\x12\0\0\0\xff"):
                command = AtaCommand(opcode, 1, 1, 1, 0x40, ext=True)
                port.prepare(0, command, [(at, 65536)], packet=packet)
                port.issue(1, queued=bool(opcode & 1))
                for _ in range(4):
                    engine.turn(0)
                port.stop()
                port.comreset()
    driver.cd(1).identify()
    assert driver.disk(0).identify().sectors == 2048


def test_hostile_4_1_registers(
    make_bench: MakeBench, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Every offset and width; then accesses at random."""
    caplog.set_level(logging.CRITICAL, "drivebay")
    bench = make_bench(
        {0: AtaDisk(filled(MIB, 7), engine), 1: PacketDevice(Dvd(None), engine)}, ports=3
    )
    size = bench.ahci.hba.size
    for offset in range(size):
        for width in (1, 2, 4, 8):
            if offset + width <= size:
                bench.mmio.read(BAR + offset, width)
                for value in (0, (1 << 8 * width) - 1):
                    bench.mmio.write(BAR + offset, width, value)
    rng = random.Random(1)
    known = [at.offset for at in PortRegisters.registers.values()]
    offsets = [PORTS_AT + PORT_SIZE * n + at for n in range(3) for at in known]
    for turn in range(30_000):
        offset = rng.choice(offsets) if rng.random() < 0.9 else rng.randrange(0, 0x2C, 4)
        if rng.random() < 0.3:
            bench.mmio.read(BAR + offset, 4)
        else:
            bench.mmio.write(BAR + offset, 4, rng.getrandbits(32) & rng.getrandbits(32))
        if turn % 64 == 0:
            engine.turn(0)
    driver = bench.driver()
    driver.ports[0].comreset()
    assert driver.disk(0).read(3, 1) == noise(MIB, 7)[1536:2048]


def test_hostile_2_2_fis_while_busy(make_bench: MakeBench, engine: Engine) -> None:
    """CLO makes the port forget BSY, not the drive: it refuses, and nothing is mistaken for it."""
    puppet = PuppetDisk(RamDisk(MIB), lambda name, _sector, _count: name == "flush")
    disk = make_bench({0: AtaDisk(puppet, engine)}).driver().disk(0)
    port = disk.port
    port.prepare(0, AtaCommand(Opcode.FLUSH_CACHE_EXT))
    port.issue(1)
    puppet.wait(1)
    port.stop()
    port.put("CMD", port.get("CMD") | PxCMD.CLO)
    port.start()
    port.prepare(0, AtaCommand(Opcode.READ_DMA_EXT, 0, 1, 0, 0x40, ext=True), [(0x40000, 512)])
    port.issue(1)
    with pytest.raises(AhciError) as failure:
        port.finish(1)
    assert failure.value.interrupts.IFS
    puppet.complete_all()
    engine.turn(0)
    assert port.get("CI") == 1
    port.comreset()
    assert disk.read(0, 1) == bytes(512)


def test_command_fis_lengths_and_types(make_bench: MakeBench, engine: Engine) -> None:
    disk = make_bench({0: AtaDisk(RamDisk(MIB), engine)}).driver().disk(0)
    port = disk.port
    for flags, kind in ((0, 0x27), (1, 0x27), (4, 0x27), (17, 0x27), (31, 0x27), (5, 0x46),
                        (5, 0), (0x205, 0x27)):  # fmt: skip
        disk.prepare_read(0, 0, 1)
        port.memory.view(port.table(0), 1)[0] = kind
        table = port.table(0)
        header = CommandHeader(flags, 1, 0, table, 0).pack()
        port.memory.view(port.command_list, 32)[:] = header
        port.issue(1)
        with pytest.raises(AhciError) as failure:
            port.finish(1)
        assert failure.value.interrupts.IFS
        port.restart()
    assert disk.read(0, 1) == bytes(512)
