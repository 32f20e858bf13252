"""An initiator that asks a target and waits for the answer."""

from __future__ import annotations

from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.status import Status
from drivebay.scsi.target import Attribute, Outcome, Target

HOST = bytes([0x06, 0, 0, 0]) + bytes(7) + b"\x01" + bytes(12)
"""A TransportID of SAS."""


class Initiator:
    """Asks LUN 0 of a target with a disk."""

    def __init__(self, disk: Disk, engine: Engine | None = None, host: bytes = HOST) -> None:
        self.engine = engine or Engine(workers=0)
        self.target = Target(self.engine)
        self.unit = ScsiDisk(disk, initiator=host)
        self.target.add(0, self.unit)
        self.tag = 0
        self.told: dict[int, Outcome] = {}
        while self.unit._attentions:
            self.unit._attentions.pop()

    def send(
        self,
        cdb: bytes,
        data: bytes | bytearray = b"",
        room: int = 0,
        lun: int = 0,
        attribute: Attribute = Attribute.SIMPLE,
    ) -> tuple[int, bytearray]:
        """Its tag, and the memory that is filled."""
        self.tag += 1
        tag, memory = self.tag, bytearray(room)

        def done(outcome: Outcome) -> None:
            assert tag not in self.told, "a second end"
            self.told[tag] = outcome

        data_in = [memoryview(memory)] if room else []
        data_out = [memoryview(data)] if data else []
        self.target.submit(lun, cdb, tag, data_in, data_out, done, attribute)
        return tag, memory

    def ask(self, cdb: bytes, data: bytes = b"", room: int = 0, lun: int = 0) -> Outcome:
        """How it ended."""
        tag, self.memory = self.send(cdb, data, room, lun)
        assert self.engine.run_until(lambda: tag in self.told)
        return self.told[tag]

    def good(self, cdb: bytes, data: bytes = b"", room: int = 0) -> bytes:
        """What a command that succeeds answers."""
        outcome = self.ask(cdb, data, room)
        assert (outcome.status, outcome.overrun) == (Status.GOOD, False), outcome
        return bytes(self.memory[: outcome.transferred])

    def sense(self, cdb: bytes, data: bytes = b"", room: int = 0) -> tuple[int, int, int]:
        """Key, code and qualifier of a command that fails."""
        outcome = self.ask(cdb, data, room)
        assert outcome.status == Status.CHECK_CONDITION, outcome
        sense = outcome.sense
        assert len(sense) == 18
        return sense[2], sense[12], sense[13]
