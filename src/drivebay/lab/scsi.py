"""Fault rules on a SCSI target, whatever transport brings its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from drivebay.disk.errors import DiskError, ReservationConflict
from drivebay.lab.dialects import scsi
from drivebay.lab.faults import Live
from drivebay.lab.rules import Die, Direction, Fail, LoseInterrupt, Rewrite, Rule, Subject
from drivebay.lab.torment import CoreFaults, Extent, Torment
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.errors import sense_of
from drivebay.scsi.opcodes import cdb_length
from drivebay.scsi.sense import CheckCondition
from drivebay.scsi.status import Aborted, Busy, Conflict, Status
from drivebay.scsi.target import Outcome, Target

__all__ = ["SCSI", "ScsiFaults"]

SCSI: Final = scsi.VOCABULARY
ADDRESSES: Final = {6: (1, 4), 10: (2, 6), 12: (2, 6), 16: (2, 10)}
"""Where a CDB of so many bytes has its address."""


class ScsiFaults(CoreFaults[bytes, Outcome]):
    """Has `rules` work on the units of `target`, called `name` in them, until `close`. What the
    target answers itself (REPORT LUNS, and whatever asks no unit) they do not meet.

    What dies, or loses interrupts, is the target's transport. Unless said, `remove` takes a unit
    from the target.
    """

    def __init__(
        self,
        target: Target,
        engine: Engine,
        rules: Iterable[Rule] = (),
        name: str = "scsi",
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        self.target = target
        super().__init__(engine, rules, name, remove or self._remove)
        target.observer = self

    def close(self) -> None:
        """Nothing is done to commands any more."""
        super().close()
        if self.target.observer is self:
            self.target.observer = None

    def check(self, rule: Rule) -> None:
        """Without a transport there is none to die."""
        super().check(rule)
        if isinstance(rule.action, LoseInterrupt | Die) and self.target.carrier is None:
            raise ValueError(f"{rule}: the target has no transport")

    def escort(self, subject: Subject, command: bytes, found: list[Live]) -> ScsiTorment:
        """Who loses interrupts, which are the transport's."""
        return ScsiTorment(self, subject, command, found)

    def describe(self, queue: int, command: bytes) -> Subject:
        """By the SCSI dialect."""
        return scsi.describe(queue, command, self.name)

    def extent(self, subject: Subject) -> Extent:
        """In the disk of the unit."""
        unit = self.target.unit(subject.queue)
        if not isinstance(unit, ScsiDisk):
            return Extent()
        disk = unit.disk
        return Extent(disk, subject.lba or 0, subject.count, disk.sector_size)

    def refusal(self, subject: Subject, command: bytes, action: Fail) -> Exception:
        """A sense by its name, or a status."""
        if action.status in scsi.SENSES:
            return CheckCondition(scsi.SENSES[action.status])
        status = Status[action.status]
        if status is Status.RESERVATION_CONFLICT:
            return Conflict()
        return Aborted() if status is Status.TASK_ABORTED else Busy(status)

    def failure(self, subject: Subject, error: DiskError) -> Exception:
        """The sense for it."""
        if isinstance(error, ReservationConflict):
            return Conflict()
        writing = subject.direction is Direction.WRITE
        return CheckCondition(sense_of(error, subject.lba, writing=writing))

    def rewritten(self, command: bytes, action: Rewrite) -> bytes:
        """Other bytes of the CDB."""
        cdb = bytearray(command)
        for name in {**action.values, **action.steps}:
            index = int(name.removeprefix("cdb"))
            if index < len(cdb):
                value = action.values.get(name, cdb[index]) + action.steps.get(name, 0)
                cdb[index] = value & 0xFF
        return bytes(cdb)

    def misdirected(self, subject: Subject, command: bytes, blocks: int) -> bytes:
        """Another address."""
        length = cdb_length(command[0])
        if length not in ADDRESSES or subject.lba is None:
            return command
        first, end = ADDRESSES[length]
        bits = 21 if length == 6 else 8 * (end - first)
        kept = int.from_bytes(command[first:end]) >> bits << bits
        address = kept | subject.lba + blocks & (1 << bits) - 1
        return command[:first] + address.to_bytes(end - first) + command[end:]

    def die(self, subject: Subject, why: str) -> None:
        """The transport fails."""
        assert self.target.carrier is not None
        self.target.carrier.fail(why)

    def _remove(self, subject: Subject) -> None:
        if self.target.unit(subject.queue) is not None:
            self.target.remove(subject.queue)


class ScsiTorment(Torment[bytes, Outcome]):
    """One command of SCSI."""

    core: ScsiFaults

    async def after(self, outcome: Outcome) -> Outcome:
        """Its end is told in this turn."""
        outcome = await super().after(outcome)
        if self.quiet:
            assert self.core.target.carrier is not None
            self.core.target.carrier.mute()
        return outcome
