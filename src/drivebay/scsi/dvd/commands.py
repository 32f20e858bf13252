"""Every command of the DVD drive: its CDB, what it does, whether a unit attention comes first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd import disc, events, features, loading, performance, reading, structure
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.replies import Action
from drivebay.scsi.sense import COMMAND_SEQUENCE_ERROR, CheckCondition
from drivebay.scsi.server import Command, DeviceServer

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd
    from drivebay.scsi.task import Task

__all__ = ["COMMANDS"]


def no_operation(drive: Dvd, cdb: object) -> Task:
    """SYNCHRONIZE CACHE and STOP PLAY/SCAN: nothing is cached, nothing plays."""
    return Action()


def pause_resume(drive: Dvd, cdb: cdbs.Cdb10) -> Task:
    """PAUSE/RESUME, MMC-3: nothing plays."""
    drive.loaded()
    raise CheckCondition(COMMAND_SEQUENCE_ERROR)


COMMANDS: Final[Mapping[int, Command]] = {
    **DeviceServer.commands,
    Opcode.TEST_UNIT_READY: Command(cdbs.Cdb6, loading.test_unit_ready),
    Opcode.START_STOP_UNIT: Command(cdbs.StartStopUnit, loading.start_stop_unit),
    Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL: Command(
        cdbs.PreventAllowMediumRemoval, loading.prevent_allow_medium_removal
    ),
    Opcode.MECHANISM_STATUS: Command(mmc.MechanismStatus, loading.mechanism_status),
    # MMC-6: these two tell of changes themselves.
    Opcode.GET_CONFIGURATION: Command(
        mmc.GetConfiguration, features.get_configuration, attention=False
    ),
    Opcode.GET_EVENT_STATUS_NOTIFICATION: Command(
        mmc.GetEventStatusNotification, events.get_event_status_notification, attention=False
    ),
    Opcode.READ_10: Command(cdbs.Read10, reading.read),
    Opcode.READ_12: Command(cdbs.Read12, reading.read),
    Opcode.READ_CD: Command(mmc.ReadCd, reading.read_cd),
    Opcode.READ_CD_MSF: Command(mmc.ReadCdMsf, reading.read_cd_msf),
    Opcode.SEEK_10: Command(cdbs.Cdb10, reading.seek),
    Opcode.VERIFY_10: Command(cdbs.Read10, reading.verify),
    Opcode.SYNCHRONIZE_CACHE_10: Command(cdbs.Cdb10, no_operation),
    Opcode.READ_CAPACITY_10: Command(cdbs.Cdb10, disc.read_capacity),
    Opcode.READ_TOC_PMA_ATIP: Command(mmc.ReadTocPmaAtip, disc.read_toc),
    Opcode.READ_SUB_CHANNEL: Command(mmc.ReadSubChannel, disc.read_sub_channel),
    Opcode.READ_DISC_INFORMATION: Command(mmc.ReadDiscInformation, disc.read_disc_information),
    Opcode.READ_TRACK_INFORMATION: Command(mmc.ReadTrackInformation, disc.read_track_information),
    Opcode.READ_DISC_STRUCTURE: Command(mmc.ReadDiscStructure, structure.read_disc_structure),
    Opcode.PLAY_AUDIO_10: Command(cdbs.Cdb10, reading.play_audio),
    Opcode.PLAY_AUDIO_12: Command(cdbs.Cdb12, reading.play_audio),
    Opcode.PLAY_AUDIO_MSF: Command(cdbs.Cdb10, reading.play_audio),
    Opcode.PAUSE_RESUME: Command(cdbs.Cdb10, pause_resume),
    Opcode.STOP_PLAY_SCAN: Command(cdbs.Cdb10, no_operation),
    Opcode.GET_PERFORMANCE: Command(mmc.GetPerformance, performance.get_performance),
    Opcode.SET_STREAMING: Command(mmc.SetStreaming, performance.set_streaming),
    Opcode.SET_CD_SPEED: Command(mmc.SetCdSpeed, performance.set_cd_speed),
    Opcode.READ_BUFFER_CAPACITY: Command(mmc.ReadBufferCapacity, performance.read_buffer_capacity),
}
