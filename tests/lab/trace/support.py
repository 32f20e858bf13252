"""Commands of every controller, recorded."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.virtio.registers import BlockType
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciError
from drivebay.drivers.nvme import NvmeError
from drivebay.lab.taps import tap_into
from drivebay.lab.trace.recorder import Recorder
from drivebay.lab.trace.records import Record, Source, read_records
from drivebay.lab.trace.story import Audience, tell
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd
from tests.ahci.support import Bench as AhciBench
from tests.floppy.support import Bench as FloppyBench
from tests.nvme.support import Bench as NvmeBench
from tests.scsi.disk.support import Initiator
from tests.virtio.bench import IOERR, OK, MakeBench

MIB = 1 << 20


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.closed = False

    def write(self, batch: bytes) -> None:
        self.batches.append(batch)

    def close(self) -> None:
        self.closed = True

    @property
    def content(self) -> bytes:
        return b"".join(self.batches)


class Recording:
    """A recorder, and what it has written once it is closed."""

    def __init__(self) -> None:
        self.sink = Kept()
        self.recorder = Recorder(self.sink)

    @property
    def content(self) -> bytes:
        self.recorder.close()
        return self.sink.content

    @property
    def records(self) -> list[Record]:
        return list(read_records(io.BytesIO(self.content)))

    def told(self, make: Callable[[Any], Audience]) -> bytes:
        """What an audience writes of it."""
        stream = io.BytesIO()
        tell(self.records, make(stream))
        return stream.getvalue()


def nvme(engine: Engine, recording: Recording) -> None:
    """WRITE, READ, a READ too far, FLUSH; and what a driver begins with."""
    bench = NvmeBench(engine, {1: RamDisk(MIB)})
    bench.enable()
    tap_into(bench.controller.worker, recording.recorder.tap(Source("nvme", "nvme")))
    namespace = bench.driver().namespace(1)
    namespace.write(0, bytes(range(256)) * 16)
    namespace.read(8, 8)
    with pytest.raises(NvmeError):
        namespace.read(1 << 40, 1)
    namespace.flush()


def scsi(engine: Engine, recording: Recording) -> None:
    """INQUIRY, READ (10), one too far, WRITE (16), SYNCHRONIZE CACHE, and a LUN that is not."""
    initiator = Initiator(RamDisk(MIB), engine)
    tap_into(initiator.target, recording.recorder.tap(Source("scsi", "scsi")))
    initiator.good(bytes([0x12, 0, 0, 0, 96, 0]), room=96)
    initiator.good(bytes([0x28, 0, 0, 0, 0, 9, 0, 0, 1, 0]), room=512)
    initiator.sense(bytes([0x28, 0, 0xFF, 0, 0, 9, 0, 0, 1, 0]), room=512)
    initiator.good(bytes([0x8A, *bytes(9), 0, 0, 0, 1, 0, 0]), data=bytes(512))
    initiator.good(bytes([0x35]) + bytes(9))
    initiator.ask(bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0]), room=16, lun=77)


def ata(engine: Engine, recording: Recording) -> None:
    """IDENTIFY, READ DMA EXT, READ FPDMA QUEUED, WRITE DMA EXT, FLUSH CACHE EXT, a READ too far."""
    drive = AtaDisk(RamDisk(MIB), engine)
    bench = AhciBench(engine, {0: drive})
    bench.enable()
    tap_into(drive, recording.recorder.tap(Source("ahci", "ata", "0")))
    disk = bench.driver().disk(0)
    disk.read(9, 1)
    disk.read_queued([(3, 1), (7, 2)])
    disk.write(4, bytes(1024))
    disk.flush()
    with pytest.raises(AhciError):
        disk.read(1 << 40, 1)


def virtio(bench: MakeBench, recording: Recording) -> None:
    """IN, one too far, OUT, FLUSH, GET_ID, DISCARD and a type that is not."""
    one = bench(RamDisk(MIB))
    tap_into(one.device, recording.recorder.tap(Source("vda", "virtio")))
    driver = one.driver()
    driver.read(9, 1024)
    guest = one.guest()
    assert guest.ask(guest.request(BlockType.IN, 1 << 40, room=512)) == IOERR
    assert guest.ask(guest.request(BlockType.OUT, 2, out=bytes(512))) == OK
    assert guest.ask(guest.request(BlockType.FLUSH)) == OK
    assert guest.ask(guest.request(BlockType.GET_ID, room=20)) == OK
    segment = bytes(8) + (8).to_bytes(4, "little") + bytes(4)
    assert guest.ask(guest.request(BlockType.DISCARD, out=segment)) == OK
    assert guest.ask(guest.request(BlockType.WRITE_ZEROES, out=segment)) == OK
    guest.ask(guest.request(99))


def floppy(engine: Engine, recording: Recording) -> None:
    """VERSION, and a SENSE INTERRUPT STATUS that nobody has asked for."""
    bench = FloppyBench(engine, [FloppyDrive(RamDisk(1440 << 10))])
    tap_into(bench.fdc, recording.recorder.tap(Source("fdc", "floppy")))
    bench.send(0x10)
    bench.result()
    bench.send(0x08)
    bench.result()


def dvd(engine: Engine, recording: Recording) -> None:
    """A packet device: TEST UNIT READY and what it has to say first, a READ, one too far."""
    drive = PacketDevice(Dvd(RamDisk(MIB, sector_size=2048)), engine)
    bench = AhciBench(engine, {1: drive})
    bench.enable()
    tap_into(drive, recording.recorder.tap(Source("ahci", "ata", "1")))
    cd = bench.driver().cd(1)
    cd.settle()
    cd.read(3, 2)
    with pytest.raises(AhciError):
        cd.read(1 << 20, 1)
