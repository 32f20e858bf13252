"""Every core shows each command as it comes and as it ends, and says what is under way."""

from __future__ import annotations

from typing import Any

import pytest

from drivebay.ata.device import UNQUEUED
from drivebay.ata.disk import AtaDisk
from drivebay.ata.registers import Opcode, Status
from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.nvme.opcodes import NvmOpcode
from drivebay.controllers.virtio.registers import BlockStatus, BlockType
from drivebay.drivers.ahci import AhciError
from drivebay.drivers.nvme import NvmeError
from drivebay.platform.engine import Engine
from drivebay.platform.observer import InFlight, Observed
from drivebay.scsi.status import Status as ScsiStatus
from drivebay.testing.puppet import PuppetDisk
from tests.ahci.support import Bench as AhciBench
from tests.floppy.support import Bench as FloppyBench
from tests.ide.support import filled
from tests.nvme.support import Bench as NvmeBench
from tests.scsi.disk.support import Initiator
from tests.virtio.bench import IOERR, OK, MakeBench
from tests.virtio.conftest import bench, transport

__all__ = ["bench", "transport"]  # fixtures

MIB = 1 << 20
READ_10 = bytes([0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0])
PAST_THE_END = bytes([0x28, 0, 0xFF, 0, 0, 9, 0, 0, 1, 0])


class Recorder:
    """A tap that keeps everything; every end must have its beginning."""

    def __init__(self, observed: Observed) -> None:
        self.under_way: dict[tuple[int, int], Any] = {}
        self.seen: list[tuple[int, int, Any, Any]] = []
        observed.tap = self

    def began(self, queue: int, tag: int, command: Any) -> None:
        self.under_way[queue, tag] = command

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        self.seen.append((queue, tag, self.under_way.pop((queue, tag)), outcome))

    def last(self) -> tuple[int, int, Any, Any]:
        assert not self.under_way
        return self.seen[-1]


def only(observed: Observed, engine: Engine) -> InFlight:
    [found] = observed.in_flight()
    assert 0 <= engine.now - found.since < 60
    return found


def puppet(kind: str, size: int = MIB) -> PuppetDisk:
    return PuppetDisk(filled(size, 1), lambda name, _sector, _count: name == kind)


def test_nvme(engine: Engine) -> None:
    disk = puppet("write")
    bench = NvmeBench(engine, {1: disk})
    bench.enable()
    worker = bench.controller.worker
    tap = Recorder(worker)
    driver = bench.driver()
    namespace = driver.namespace(1)
    queues = {queue for queue, _, _, _ in tap.seen}
    assert 0 in queues
    namespace.read(9, 4)
    queue, _, row, outcome = tap.last()
    assert (queue > 0, row[0], row[3], row[9], outcome) == (True, NvmOpcode.READ, 1, 9, (0, 0))
    with pytest.raises(NvmeError) as caught:
        namespace.read(1 << 40, 1)
    assert caught.value.completion is not None
    assert tap.last()[3] == (0, caught.value.completion.status >> 1)


def test_nvme_in_flight(engine: Engine) -> None:
    disk = puppet("write")
    bench = NvmeBench(engine, {1: disk})
    bench.enable()
    worker = bench.controller.worker
    tap = Recorder(worker)
    namespace = bench.driver().namespace(1)
    assert not list(worker.in_flight())
    number = namespace.prepare_write(0, 3, bytes(512))
    namespace.queue.ring()
    assert engine.run_until(lambda: bool(disk.held))
    found = only(worker, engine)
    assert (found.queue, found.tag) in tap.under_way
    assert (found.command[0], found.command[9]) == (NvmOpcode.WRITE, 3)
    disk.complete_all()
    namespace.finish([number])
    assert not list(worker.in_flight())


def test_virtio_blk(bench: MakeBench, engine: Engine) -> None:
    disk = puppet("flush")
    one = bench(disk)
    tap = Recorder(one.device)
    guest = one.guest()
    read = guest.request(BlockType.IN, 9, room=1024)
    assert guest.ask(read) == OK
    assert tap.last()[2:] == ((BlockType.IN, 9, 1024), BlockStatus.OK)
    assert guest.ask(guest.request(BlockType.IN, 1 << 40, room=512)) == IOERR
    assert tap.last()[2:] == ((BlockType.IN, 1 << 40, 512), BlockStatus.IOERR)
    guest.send(guest.request(BlockType.FLUSH).chain)
    guest.kick()
    one.settle()
    assert only(one.device, engine).command == (BlockType.FLUSH, 0, 0)
    disk.complete_all()
    one.settle()
    assert not list(one.device.in_flight())
    assert tap.last()[2:] == ((BlockType.FLUSH, 0, 0), BlockStatus.OK)


def test_scsi(engine: Engine) -> None:
    disk = puppet("flush")
    initiator = Initiator(disk, engine)
    tap = Recorder(initiator.target)
    initiator.good(READ_10, room=512)
    assert tap.last()[:3] == (0, initiator.tag, READ_10)
    assert tap.last()[3].status is ScsiStatus.GOOD and tap.last()[3].transferred == 512
    initiator.sense(PAST_THE_END, room=512)
    assert tap.last()[3].sense[2] == 5
    initiator.ask(bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]), room=16, lun=77)
    assert tap.last()[0] == 77
    initiator.send(bytes([0x35]) + bytes(9))
    assert engine.run_until(lambda: bool(disk.held))
    assert only(initiator.target, engine).command[0] == 0x35
    disk.complete_all()
    engine.turn(0)
    assert tap.last()[2][0] == 0x35 and not list(initiator.target.in_flight())


def test_ata(engine: Engine) -> None:
    disk = puppet("flush")
    drive = AtaDisk(disk, engine)
    bench = AhciBench(engine, {0: drive})
    bench.enable()
    driver = bench.driver().disk(0)
    tap = Recorder(drive)
    driver.read(9, 1)
    queue, tag, taskfile, (status, error) = tap.last()
    assert (queue, tag, taskfile.command, taskfile.lba48) == (0, UNQUEUED, Opcode.READ_DMA_EXT, 9)
    assert (status & Status.ERR, error) == (0, 0)
    tap.seen.clear()
    driver.read_queued([(3, 1), (7, 2)])
    assert not tap.under_way
    assert {(tag, taskfile.lba48) for _, tag, taskfile, _ in tap.seen} == {(0, 3), (1, 7)}
    with pytest.raises(AhciError):
        driver.read(1 << 40, 1)
    assert tap.last()[3][0] & Status.ERR


def test_ata_in_flight(engine: Engine) -> None:
    disk = puppet("read")
    drive = AtaDisk(disk, engine)
    bench = AhciBench(engine, {0: drive})
    bench.enable()
    driver = bench.driver().disk(0)
    for tag in range(2):
        driver.prepare_read(tag, tag, 1)
    driver.port.issue(0b11, queued=True)
    assert engine.run_until(lambda: len(disk.held) == 2)
    assert {each.tag for each in drive.in_flight()} == {0, 1}
    disk.complete_all()
    driver.port.finish(0b11)
    assert not list(drive.in_flight())


def test_floppy(engine: Engine) -> None:
    disk = puppet("read", 1440 << 10)
    bench = FloppyBench(engine, [FloppyDrive(disk)])
    tap = Recorder(bench.fdc)
    for control in (0x18, 0x1C):  # it is reset, and polls its drives
        bench.outb(0x3F2, control)
    for unit in range(4):
        bench.send(0x08)
        assert len(bench.result()) == 2
        assert tap.last()[2:] == (b"\x08", bytes((0xC0 | unit, 0)))
    bench.motors(0)
    bench.aim(512)
    bench.send(0x46, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    assert only(bench.fdc, engine).command[0] == 0x46
    bench.outb(0x3F2, 0x18)
    assert not list(bench.fdc.in_flight())
    disk.complete_all()
