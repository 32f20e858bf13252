"""Operation codes, by the names of SPC-4 and MMC-6."""

from __future__ import annotations

import enum

__all__ = ["Opcode", "cdb_length"]


class Opcode(enum.IntEnum):
    """The first byte of a CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    SEEK_10 = 0x2B
    VERIFY_10 = 0x2F
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_SUB_CHANNEL = 0x42
    READ_TOC_PMA_ATIP = 0x43
    PLAY_AUDIO_10 = 0x45
    GET_CONFIGURATION = 0x46
    PLAY_AUDIO_MSF = 0x47
    GET_EVENT_STATUS_NOTIFICATION = 0x4A
    PAUSE_RESUME = 0x4B
    STOP_PLAY_SCAN = 0x4E
    READ_DISC_INFORMATION = 0x51
    READ_TRACK_INFORMATION = 0x52
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    READ_BUFFER_CAPACITY = 0x5C
    REPORT_LUNS = 0xA0
    PLAY_AUDIO_12 = 0xA5
    READ_12 = 0xA8
    GET_PERFORMANCE = 0xAC
    READ_DISC_STRUCTURE = 0xAD
    SET_STREAMING = 0xB6
    READ_CD_MSF = 0xB9
    SET_CD_SPEED = 0xBB
    MECHANISM_STATUS = 0xBD
    READ_CD = 0xBE


_LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


def cdb_length(opcode: int) -> int | None:
    """Bytes in a CDB that begins with `opcode`, by its group code (SPC-4).

    None where the group does not say: variable length and vendor specific ones.
    """
    return _LENGTHS.get(opcode >> 5)
