"""The same commands through StorVSP, virtio-scsi and ATAPI: one model (tests/scsi/model.py)."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import settings

from drivebay.ata.packet import PacketDevice
from drivebay.controllers.storvsp.protocol import Operation, SrbCode, Version
from drivebay.controllers.virtio.mmio import MmioTransport
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.controllers.virtio.scsi_registers import ScsiFunction, ScsiResponse
from drivebay.drivers.arena import Arena
from drivebay.drivers.ide import PacketError
from drivebay.drivers.storvsc import StorVsc
from drivebay.drivers.virtio_scsi import VirtioScsi
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.server import DeviceServer
from drivebay.scsi.target import Target
from tests.ide.support import Bench as IdeBench
from tests.scsi.model import Answer, DiscMachine, DiskMachine, Wire, sense_of

from .support import Bench

SENSE_LENGTH = 18


class ByStorVsp:
    """A unit on a synthetic SCSI controller."""

    def __init__(self, unit: DeviceServer, version: Version) -> None:
        self.bench = Bench({})
        self.bench.target.add(0, unit)
        self.driver: StorVsc = self.bench.driver(version=version)

    def ask(self, cdb: bytes, data: bytes = b"", room: int = 0) -> Answer:
        ended, got = self.driver.run(cdb, room, data)
        if ended.code == SrbCode.SUCCESS:
            return Answer(got)
        assert ended.code == SrbCode.ERROR, ended
        return Answer(sense=sense_of(ended.sense))

    def reset(self) -> None:
        self.driver.ask(Operation.RESET_BUS)

    def close(self) -> None:
        self.bench.engine.close()


class ByVirtio:
    """A unit on a virtio SCSI host."""

    def __init__(self, unit: DeviceServer) -> None:
        self.engine = Engine(workers=0)
        target = Target(self.engine)
        target.add(0, unit)
        memory, space = GuestMemory.of_size(8 << 20), MmioSpace()
        device = ScsiDevice(target, self.engine)
        space.map(0x10000000, MmioTransport(device, memory, Line(lambda level: None)))
        arena = Arena(memory, 0, 8 << 20)
        poll = lambda: self.engine.turn(0)  # noqa: E731
        self.driver = VirtioScsi(space, 0x10000000, arena, poll=poll)

    def ask(self, cdb: bytes, data: bytes = b"", room: int = 0) -> Answer:
        answer = self.driver.command(0, cdb, data=data, room=room)
        assert answer.response == ScsiResponse.OK, answer
        return Answer(sense=sense_of(answer.sense)) if answer.status else Answer(answer.data)

    def reset(self) -> None:
        assert self.driver.manage(ScsiFunction.LOGICAL_UNIT_RESET) == ScsiResponse.OK

    def close(self) -> None:
        self.engine.close()


class ByAtapi:
    """A DVD drive on an IDE channel."""

    def __init__(self, unit: Dvd) -> None:
        self.engine = Engine(workers=0)
        bench = IdeBench(self.engine, {(0, 0): PacketDevice(unit, self.engine)})
        bench.enable()
        self.cd = bench.driver().cd(0, 0)

    def ask(self, cdb: bytes, data: bytes = b"", room: int = 0) -> Answer:
        try:
            got = self.cd.packet(cdb, room, data=data, dma=False)
        except PacketError as error:
            return Answer(sense=(error.sense.key, error.sense.asc, error.sense.ascq))
        return Answer(got)

    def reset(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.engine.close()


class Disks(DiskMachine):
    def wires(self) -> Mapping[str, Wire]:
        return {
            "StorVSP Blue": ByStorVsp(ScsiDisk(self.disk()), Version.BLUE),
            "StorVSP Win6": ByStorVsp(ScsiDisk(self.disk()), Version.WIN6),
            "virtio-scsi": ByVirtio(ScsiDisk(self.disk())),
        }


class Discs(DiscMachine):
    def wires(self) -> Mapping[str, Wire]:
        return {
            "StorVSP": ByStorVsp(Dvd(self.disk()), Version.BLUE),
            "virtio-scsi": ByVirtio(Dvd(self.disk())),
            "ATAPI": ByAtapi(Dvd(self.disk())),
        }


TestDisks = Disks.TestCase
TestDiscs = Discs.TestCase
TestDisks.settings = TestDiscs.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None
)
