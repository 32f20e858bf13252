"""What is on the disc: one session with one track of data, from block 0 to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.medium import BLOCK, Medium, msf
from drivebay.scsi.replies import Reply
from drivebay.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE,
    CheckCondition,
)
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = [
    "RawTocDescriptor",
    "TocDescriptor",
    "TocHeader",
    "read_capacity",
    "read_disc_information",
    "read_sub_channel",
    "read_toc",
    "read_track_information",
]

TRACK = SESSION = 1
LEAD_OUT: Final = 0xAA
ADR_CONTROL: Final = 0x14  # Q sub-channel mode 1: positions; a data track, recorded at once
TOC, SESSION_INFORMATION, FULL_TOC = 0, 1, 2  # formats
POINT_FIRST, POINT_LAST, POINT_LEAD_OUT = 0xA0, 0xA1, 0xA2
NO_STATUS: Final = 0x15  # of audio: nothing to say
POSITION, MEDIA_CATALOG_NUMBER, ISRC = 1, 2, 3  # formats of READ SUB-CHANNEL
COMPLETE: Final = 0b1110  # state of the last session 3, disc status 2
UNRESTRICTED_USE: Final = 0x20
DATA_TRACK, MODE_1 = 4, 1
BY_LBA, BY_TRACK, BY_SESSION = 0, 1, 2
NO_TIME: Final = 0xFFFFFFFF


class Capacity(Struct, size=8, byte_order=">"):
    """READ CAPACITY (10), MMC-6."""

    last_logical_block_address: U32 = 0
    block_length: U32 = BLOCK


class TocHeader(Struct, size=4, byte_order=">"):
    """Before all else, MMC-6. The length does not count itself."""

    data_length: U16 = 0
    first: U8 = TRACK
    last: U8 = TRACK


class TocDescriptor(Struct, size=8, byte_order=">"):
    """A track, MMC-6; the address is an LBA, or 0, minute, second, frame."""

    reserved: U8 = 0
    adr_control: U8 = ADR_CONTROL
    track_number: U8 = TRACK
    reserved_2: U8 = 0
    start_address: U32 = 0


class RawTocDescriptor(Struct, size=11, byte_order=">"):
    """Full TOC, MMC-6: what the Q sub-channel of the lead-in says."""

    session_number: U8 = SESSION
    adr_control: U8 = ADR_CONTROL
    tno: U8 = 0
    point: U8 = 0
    msf: Annotated[bytes, "3s"] = bytes(3)
    zero: U8 = 0
    pmsf: Annotated[bytes, "3s"] = bytes(3)


class SubChannelHeader(Struct, size=4, byte_order=">"):
    """READ SUB-CHANNEL: before all, MMC-3."""

    reserved: U8 = 0
    audio_status: U8 = NO_STATUS
    data_length: U16 = 0


class CurrentPosition(Struct, size=12, byte_order=">"):
    """READ SUB-CHANNEL format 1, MMC-3."""

    format: U8 = POSITION
    adr_control: U8 = ADR_CONTROL
    track_number: U8 = TRACK
    index_number: U8 = 1
    absolute_address: U32 = 0
    track_relative_address: U32 = 0


class NoNumber(Struct, size=20, byte_order=">"):
    """Media catalog number or ISRC, MMC-3: not on this disc."""

    format: U8 = MEDIA_CATALOG_NUMBER
    adr_control: U8 = 0
    track_number: U8 = 0
    reserved: U8 = 0
    valid: U8 = 0
    number: Annotated[bytes, "15s"] = bytes(15)


class DiscInformation(Struct, size=34, byte_order=">"):
    """READ DISC INFORMATION, MMC-6. The length does not count itself."""

    disc_information_length: U16 = 32
    status: U8 = COMPLETE
    first_track: U8 = TRACK
    sessions: U8 = SESSION
    first_track_in_last_session: U8 = TRACK
    last_track_in_last_session: U8 = TRACK
    flags: U8 = UNRESTRICTED_USE
    disc_type: U8 = 0
    sessions_high: U8 = 0
    first_track_in_last_session_high: U8 = 0
    last_track_in_last_session_high: U8 = 0
    disc_identification: U32 = 0
    last_session_lead_in_start: U32 = NO_TIME  # nothing can be appended
    last_possible_lead_out_start: U32 = NO_TIME
    disc_bar_code: Annotated[bytes, "8s"] = bytes(8)
    disc_application_code: U8 = 0
    opc_tables: U8 = 0


class TrackInformation(Struct, size=48, byte_order=">"):
    """READ TRACK INFORMATION, MMC-6. The length does not count itself."""

    track_information_length: U16 = 46
    track_number: U8 = TRACK
    session_number: U8 = SESSION
    reserved: U8 = 0
    track_mode: U8 = DATA_TRACK
    data_mode: U8 = MODE_1
    valid: U8 = 0
    track_start_address: U32 = 0
    next_writable_address: U32 = 0
    free_blocks: U32 = 0
    fixed_packet_size: U32 = 0
    track_size: U32 = 0
    last_recorded_address: U32 = 0
    track_number_high: U8 = 0
    session_number_high: U8 = 0
    reserved_2: U16 = 0
    read_compatibility_lba: U32 = 0
    next_layer_jump_address: U32 = 0
    last_layer_jump_address: U32 = 0


def address(lba: int, time: bool) -> int:
    """`lba` as an address field, or with `time` its minute, second and frame."""
    return int.from_bytes(bytes(msf(lba))) if time else lba


def read_capacity(drive: Dvd, cdb: cdbs.Cdb10) -> Task:
    """READ CAPACITY (10), MMC-6."""
    return Reply(Capacity(drive.loaded().blocks - 1).pack(), Capacity.size)


def read_toc(drive: Dvd, cdb: mmc.ReadTocPmaAtip) -> Task:
    """READ TOC/PMA/ATIP, MMC-6."""
    medium = drive.loaded()
    time = bool(cdb.flags & mmc.TimeFlags.MSF)
    wanted = cdb.track_session_number
    # SFF-8020 had the format where the control byte is now; drivers still send it there.
    match cdb.format & 0xF or cdb.control >> 6:
        case 0:
            descriptors = _tracks(medium, wanted, time)
        case 1:
            descriptors = [TocDescriptor(start_address=address(0, time)).pack()]
        case 2:
            descriptors = _full_toc(medium, wanted)
        case _:
            raise CheckCondition(INVALID_FIELD_IN_CDB)
    body = b"".join(descriptors)
    return Reply(TocHeader(TocHeader.size - 2 + len(body)).pack() + body, cdb.allocation_length)


def _tracks(medium: Medium, first: int, time: bool) -> list[bytes]:
    """The tracks from `first` on, and the lead-out, which begins after the last block."""
    if TRACK < first != LEAD_OUT:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    track = TocDescriptor(start_address=address(0, time))
    lead_out = TocDescriptor(track_number=LEAD_OUT, start_address=address(medium.blocks, time))
    return [item.pack() for item in (track, lead_out) if item.track_number >= first]


def _full_toc(medium: Medium, first_session: int) -> list[bytes]:
    if first_session > SESSION:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return [
        RawTocDescriptor(point=point, pmsf=bytes(pmsf)).pack()
        for point, pmsf in (
            (POINT_FIRST, (TRACK, 0, 0)),  # and disc type 0: CD-DA or CD-ROM
            (POINT_LAST, (TRACK, 0, 0)),
            (POINT_LEAD_OUT, msf(medium.blocks)),
            (TRACK, msf(0)),
        )
    ]


def read_sub_channel(drive: Dvd, cdb: mmc.ReadSubChannel) -> Task:
    """READ SUB-CHANNEL, MMC-3: where the head is, which is at the start of the track."""
    drive.loaded()
    body = b""
    if cdb.subq & 0x40:
        time = bool(cdb.flags & mmc.TimeFlags.MSF)
        start = CurrentPosition(absolute_address=address(0, time))
        isrc = NoNumber(format=ISRC, adr_control=ADR_CONTROL, track_number=TRACK)
        known = {POSITION: start, MEDIA_CATALOG_NUMBER: NoNumber(), ISRC: isrc}
        if cdb.format not in known or (cdb.format == ISRC and cdb.track_number != TRACK):
            raise CheckCondition(INVALID_FIELD_IN_CDB)
        body = known[cdb.format].pack()
    return Reply(SubChannelHeader(data_length=len(body)).pack() + body, cdb.allocation_length)


def read_disc_information(drive: Dvd, cdb: mmc.ReadDiscInformation) -> Task:
    """READ DISC INFORMATION, MMC-6."""
    drive.loaded()
    if cdb.data_type & 0b111:  # resources of BD-R
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return Reply(DiscInformation().pack(), cdb.allocation_length)


def read_track_information(drive: Dvd, cdb: mmc.ReadTrackInformation) -> Task:
    """READ TRACK INFORMATION, MMC-6."""
    medium = drive.loaded()
    flags, number = mmc.TrackFlags(cdb.flags), cdb.logical_block_address_track_session_number
    if flags.OPEN or flags.ADDRESS_NUMBER_TYPE > BY_SESSION:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if flags.ADDRESS_NUMBER_TYPE == BY_LBA:
        if number >= medium.blocks:
            raise CheckCondition(LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
    elif number != TRACK:  # and SESSION
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return Reply(TrackInformation(track_size=medium.blocks).pack(), cdb.allocation_length)
