"""The tray, as the guest moves it: START STOP UNIT, PREVENT ALLOW MEDIUM REMOVAL."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskError, UnsupportedEject
from drivebay.platform.logs import RationedLog
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.replies import Action, Reply
from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    MEDIUM_REMOVAL_PREVENTED,
    CheckCondition,
    SenseKey,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["mechanism_status", "prevent_allow_medium_removal", "start_stop_unit", "test_unit_ready"]

log = RationedLog(logging.getLogger(__name__))

POWER_CONDITIONS: Final = (0, 1, 2, 3, 5)  # MMC-6: none, active, idle, standby, sleep


class MechanismByte(Register8):
    """MECHANISM STATUS byte 1."""

    MECHANISM_STATE = Bits(7, 5)  # 0: idle
    DOOR_OPEN = Bit(4)
    CURRENT_SLOT_HIGH = Bits(2, 0)


class Mechanism(Struct, size=8, byte_order=">"):
    """MECHANISM STATUS of a drive without a changer."""

    changer: U8 = 0
    mechanism: U8 = 0
    current_lba_high: U8 = 0
    current_lba: U16 = 0
    slots: U8 = 0
    slot_table_length: U16 = 0


def test_unit_ready(drive: Dvd, cdb: cdbs.Cdb6) -> Task:
    """TEST UNIT READY, MMC-6."""
    drive.loaded()
    return Action()


class Eject(Task):
    """Open the tray, and let a disk that can eject do so."""

    def __init__(self, drive: Dvd) -> None:
        self._drive = drive
        self._check()

    def _check(self) -> None:
        """Raise MEDIUM REMOVAL PREVENTED if the tray is closed and locked."""
        drive = self._drive
        if drive.locked and not drive.tray_open:
            key = SenseKey.NOT_READY if drive.medium is None else SenseKey.ILLEGAL_REQUEST
            raise CheckCondition(MEDIUM_REMOVAL_PREVENTED._replace(key=key))

    async def finish(self) -> None:
        """The medium then lies in the open tray."""
        self._check()
        medium = self._drive.medium
        self._drive.open_tray(force=True)
        if medium is None:
            return
        try:
            await medium.disk.eject()
        except UnsupportedEject:
            pass
        except DiskError as error:
            log.warning("the disk of a DVD that the guest ejected cannot be: %s", error)


def start_stop_unit(drive: Dvd, cdb: cdbs.StartStopUnit) -> Task:
    """START STOP UNIT, MMC-6. Nothing spins, so only the tray is moved."""
    flags = cdbs.StartStopUnitFlags(cdb.flags)
    if flags.POWER_CONDITIONS not in POWER_CONDITIONS:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if flags.POWER_CONDITIONS or not flags.LOEJ:
        return Action()
    return Action(drive.close_tray) if flags.START else Eject(drive)


def prevent_allow_medium_removal(drive: Dvd, cdb: cdbs.PreventAllowMediumRemoval) -> Task:
    """MMC-6: two locks; who sets the persistent one polls for events."""
    prevent = cdbs.Prevent(cdb.prevent)
    return Action(partial(drive.lock, prevent.PREVENT, persistent=prevent.PERSISTENT))


def mechanism_status(drive: Dvd, cdb: mmc.MechanismStatus) -> Task:
    """MECHANISM STATUS, MMC-6."""
    status = Mechanism(mechanism=MechanismByte.of(DOOR_OPEN=drive.tray_open))
    return Reply(status.pack(), cdb.allocation_length)
