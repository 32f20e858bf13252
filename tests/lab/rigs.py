"""Each sort of core with a disk, a driver that asks for blocks, and fault rules between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.storvsp.protocol import SrbCode
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.ahci import AhciError
from drivebay.drivers.ahci.errors import AhciTimeout
from drivebay.drivers.ide import Via
from drivebay.drivers.ide.errors import IdeError, IdeTimeout
from drivebay.drivers.nvme import NvmeError
from drivebay.drivers.nvme.errors import NvmeTimeout
from drivebay.drivers.virtio_driver import DeviceError
from drivebay.lab.ata import ATA, AtaFaults
from drivebay.lab.language import parse_rule
from drivebay.lab.nvme import NVME, NvmeFaults
from drivebay.lab.rules import Vocabulary
from drivebay.lab.scsi import SCSI, ScsiFaults
from drivebay.lab.torment import CoreFaults
from drivebay.lab.virtio import VIRTIO_BLK, VirtioBlkFaults
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.scsi.status import Status
from tests.ahci.support import Bench as AhciBench
from tests.ide.support import Bench as IdeBench
from tests.ide.support import filled
from tests.nvme.support import Bench as NvmeBench
from tests.scsi.disk.support import Initiator
from tests.storvsp.support import Bench as StorVspBench
from tests.virtio.bench import RAM_SIZE, RAM_START, on_mmio

MIB = 1 << 20
PATIENCE = 2000
"""Turns of the engine that a driver waits for an answer."""


class Failed(Exception):
    """The command ended, and not well."""


class Lost(Exception):
    """The command did not end."""


class Rig:
    """One of them. `torment` has the rules."""

    vocabulary: Vocabulary
    torment: CoreFaults[object, object]

    def __init__(self, engine: Engine, disk: RamDisk | None = None) -> None:
        self.engine, self.patience = engine, PATIENCE
        self.disk = disk or filled(MIB, 1)

    def rules(self, *texts: str) -> None:
        """Have these work, instead of others."""
        self.torment.faults.clear()
        for text in texts:
            self.torment.faults.add(parse_rule(text, self.vocabulary))

    def read(self, lba: int, count: int) -> bytes:
        raise NotImplementedError

    def write(self, lba: int, data: bytes) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """What a driver does when commands are lost."""
        raise NotImplementedError

    def patient(self, turns: int) -> None:
        """Wait so many turns of the engine for an answer."""
        self.patience = turns

    def settle(self) -> None:
        for _ in range(8):
            self.engine.turn(0)


class VirtioRig(Rig):
    vocabulary = VIRTIO_BLK

    def __init__(self, engine: Engine, disk: RamDisk | None = None) -> None:
        super().__init__(engine, disk)
        memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        self.device = BlockDevice(self.disk, engine)
        self.bench = on_mmio(engine, self.disk, memory, self.device)
        self.reset()
        self.torment = VirtioBlkFaults(self.device, engine)  # type: ignore[assignment]

    def read(self, lba: int, count: int) -> bytes:
        pending = self.driver.submit(0, lba, count * 512)
        self._wait(pending)
        return bytes(self.bench.memory.view(pending.data, count * 512))

    def write(self, lba: int, data: bytes) -> None:
        self._wait(self.driver.submit(1, lba, data=data))

    def _wait(self, pending: object) -> None:
        try:
            status = self.driver.wait(pending, self.patience)  # type: ignore[arg-type]
        except DeviceError:
            raise Lost from None
        if status:
            raise Failed(status)

    def reset(self) -> None:
        self.driver = self.bench.driver()
        self.driver._poll = partial(self.engine.turn, 0)


class ScsiRig(Rig):
    vocabulary = SCSI

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.initiator = Initiator(self.disk, engine)
        self.dead, self.muted = "", 0
        self.initiator.target.carrier = self
        self.torment = ScsiFaults(  # type: ignore[assignment]
            self.initiator.target,
            engine,
        )

    def mute(self) -> None:
        self.muted += 1

    def fail(self, why: str) -> None:
        self.dead = why

    def _ask(self, opcode: int, lba: int, count: int, data: bytes, room: int) -> bytes:
        cdb = bytes([opcode, 0, *lba.to_bytes(4), 0, *count.to_bytes(2), 0])
        tag, memory = self.initiator.send(cdb, data, room)
        for _ in range(self.patience):
            if tag in self.initiator.told:
                break
            self.engine.turn(0)
        else:
            raise Lost
        outcome = self.initiator.told[tag]
        if outcome.status != Status.GOOD:
            raise Failed(outcome.status)
        return bytes(memory)

    def read(self, lba: int, count: int) -> bytes:
        return self._ask(0x28, lba, count, b"", count * 512)

    def write(self, lba: int, data: bytes) -> None:
        self._ask(0x2A, lba, len(data) // 512, data, 0)

    def reset(self) -> None:
        self.dead = ""
        ended: list[bool] = []
        self.initiator.target.reset(lambda: ended.append(True))
        assert self.engine.run_until(lambda: bool(ended))  # a delay may just have ended
        self.initiator.unit._attentions.clear()


class StorVspRig(Rig):
    vocabulary = SCSI

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.bench = StorVspBench({0: self.disk}, engine=engine)
        self.driver = self.bench.driver()
        self.torment = ScsiFaults(self.bench.target, engine)  # type: ignore[assignment]

    def _ask(self, opcode: int, lba: int, count: int, *, out: bool) -> None:
        cdb = bytes([opcode, 0, *lba.to_bytes(4), 0, *count.to_bytes(2), 0])
        sent = self.driver.start(cdb, count * 512, out=out)
        channel = self.driver.channel
        for _ in range(self.patience):
            channel.take()
            if sent in channel.ended:
                break
            self.engine.turn(0)
        else:
            raise Lost
        ended = self.driver.ended(channel.ended.pop(sent))
        if ended.code != SrbCode.SUCCESS:
            raise Failed(ended)

    def read(self, lba: int, count: int) -> bytes:
        self._ask(0x28, lba, count, out=False)
        return self.driver.got(count * 512)

    def write(self, lba: int, data: bytes) -> None:
        self.driver.put(data)
        self._ask(0x2A, lba, len(data) // 512, out=True)

    def reset(self) -> None:
        self.driver.channel.reopen()
        self.driver.negotiate()


class IdeRig(Rig):
    vocabulary = ATA
    via = Via.DMA

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        drive = AtaDisk(self.disk, engine)
        self.bench = IdeBench(engine, {(0, 0): drive})
        self.bench.enable()
        self.driver = self.bench.driver()
        self.channel = self.driver.channels[0]
        self.channel.patience = PATIENCE
        self.drive = self.driver.disk(0, 0)
        self.torment = AtaFaults({0: drive}, engine, name="ide")  # type: ignore[assignment]

    def read(self, lba: int, count: int) -> bytes:
        return self._try(lambda: self.drive.read(lba, count, self.via))

    def write(self, lba: int, data: bytes) -> None:
        self._try(lambda: self.drive.write(lba, data, self.via))

    def patient(self, turns: int) -> None:
        self.channel.patience = turns

    def _try(self, act: Callable[[], bytes | None]) -> bytes:
        try:
            return act() or b""
        except IdeTimeout:
            raise Lost from None
        except IdeError as error:
            raise Failed(error) from None

    def reset(self) -> None:
        self.channel.reset()


class PioRig(IdeRig):
    via = Via.PIO


class AhciRig(Rig):
    vocabulary = ATA
    queued = False

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.bench = AhciBench(engine, {0: AtaDisk(self.disk, engine)})
        self.bench.enable()
        self.driver = self.bench.driver(patience=PATIENCE)
        self.drive = self.driver.disk(0)
        port = self.bench.ahci.hba.ports[0]
        assert port.drive is not None
        self.torment = AtaFaults(  # type: ignore[assignment]
            {0: port.drive}, engine, name="ahci", remove=lambda subject: self._pull()
        )

    def _pull(self) -> None:
        self.bench.ahci.detach(0)

    def read(self, lba: int, count: int) -> bytes:
        if self.queued:
            return self._try(lambda: self.drive.read_queued([(lba, count)])[0])
        return self._try(lambda: self.drive.read(lba, count))

    def write(self, lba: int, data: bytes) -> None:
        if self.queued:
            self._try(lambda: self.drive.write_queued([(lba, data)]))
        else:
            self._try(lambda: self.drive.write(lba, data))

    def patient(self, turns: int) -> None:
        self.driver.patience = turns

    def _try(self, act: Callable[[], bytes | None]) -> bytes:
        try:
            return act() or b""
        except AhciTimeout:
            raise Lost from None
        except AhciError as error:
            with contextlib.suppress(AhciError):  # a rule may be for that, too
                self.drive.recover()
            raise Failed(error) from None

    def reset(self) -> None:
        port = self.drive.port
        port.stop()
        port.comreset()
        port.start()


class NcqRig(AhciRig):
    queued = True


class NvmeRig(Rig):
    vocabulary = NVME

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.bench = NvmeBench(engine, {1: self.disk})
        self.bench.enable()
        self.reset()
        self.torment = NvmeFaults(self.bench.controller)  # type: ignore[assignment]

    def read(self, lba: int, count: int) -> bytes:
        return self._try(lambda: self.namespace.read(lba, count))

    def write(self, lba: int, data: bytes) -> None:
        self._try(lambda: self.namespace.write(lba, data))

    def patient(self, turns: int) -> None:
        self.driver.patience = turns

    def _try(self, act: Callable[[], bytes | None]) -> bytes:
        try:
            return act() or b""
        except NvmeTimeout:
            raise Lost from None
        except NvmeError as error:
            raise Failed(error) from None

    def reset(self) -> None:
        self.driver = self.bench.driver()
        self.driver.patience = PATIENCE
        self.namespace = self.driver.namespace(1)


RIGS: dict[str, type[Rig]] = {
    "virtio-blk": VirtioRig,
    "scsi": ScsiRig,
    "storvsp": StorVspRig,
    "ide": IdeRig,
    "ide-pio": PioRig,
    "ahci": AhciRig,
    "ahci-ncq": NcqRig,
    "nvme": NvmeRig,
}

__all__ = ["RIGS", "AhciRig", "Failed", "IdeRig", "Lost", "NvmeRig", "Rig", "ScsiRig", "VirtioRig"]
