"""Whether it is ready: TEST UNIT READY, START STOP UNIT, SEND DIAGNOSTIC, and what does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.scsi import cdb as cdbs
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Action
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.status import Conflict
from drivebay.scsi.task import Task

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["format_unit", "no_operation", "send_diagnostic", "start_stop_unit"]


class Stop(Task):
    """START STOP UNIT: what is cached becomes stable first (SBC-3 section 5.25)."""

    def __init__(self, disk: ScsiDisk) -> None:
        self._disk = disk

    async def finish(self) -> None:
        """Flush, then stop."""
        await self._disk.flush()
        self._disk.stopped = True


def start_stop_unit(unit: ScsiDisk, cdb: cdbs.StartStopUnit) -> Task:
    """START STOP UNIT. Power conditions are accepted; only a stopped disk is not ready."""
    flags = cdbs.StartStopUnitFlags(cdb.flags)
    if flags.LOEJ:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if flags.POWER_CONDITIONS:
        return Action()

    def start() -> None:
        unit.stopped = False

    if flags.START:
        return Action(start)
    if unit.nexus is not None and not unit.nexus.may_write:  # SBC-3 table 13
        raise Conflict
    return Stop(unit)


def send_diagnostic(unit: ScsiDisk, cdb: sbc.SendDiagnostic) -> Task:
    """SEND DIAGNOSTIC: the default self-test, which succeeds."""
    if cdb.flags & ~sbc.SendDiagnosticFlags.SELFTEST or cdb.parameter_list_length:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return Action()


def format_unit(unit: ScsiDisk, cdb: sbc.Read6) -> Task:
    """FORMAT UNIT without parameters: the medium is formatted, as it always is."""
    if cdb.logical_block_address_high:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return Action()


def no_operation(unit: ScsiDisk, cdb: object) -> Task:
    """TEST UNIT READY; RESERVE (6) and RELEASE (6), of one initiator; PREVENT, of no medium."""
    return Action()
