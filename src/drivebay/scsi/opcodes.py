"""Operation codes, by the names of SPC-4, SBC-3 and MMC-6."""

from __future__ import annotations

import enum

__all__ = ["Opcode", "cdb_length"]


class Opcode(enum.IntEnum):
    """The first byte of a CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SEEK_10 = 0x2B
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PRE_FETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    WRITE_BUFFER = 0x3B
    READ_BUFFER = 0x3C
    WRITE_SAME_10 = 0x41
    READ_SUB_CHANNEL = 0x42
    UNMAP = 0x42  # what it means to a disk
    READ_TOC_PMA_ATIP = 0x43
    PLAY_AUDIO_10 = 0x45
    GET_CONFIGURATION = 0x46
    PLAY_AUDIO_MSF = 0x47
    GET_EVENT_STATUS_NOTIFICATION = 0x4A
    PAUSE_RESUME = 0x4B
    LOG_SENSE = 0x4D
    STOP_PLAY_SCAN = 0x4E
    READ_DISC_INFORMATION = 0x51
    READ_TRACK_INFORMATION = 0x52
    MODE_SELECT_10 = 0x55
    MODE_SENSE_10 = 0x5A
    READ_BUFFER_CAPACITY = 0x5C
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    MAINTENANCE_IN = 0xA3
    PLAY_AUDIO_12 = 0xA5
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    GET_PERFORMANCE = 0xAC
    READ_DISC_STRUCTURE = 0xAD
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF
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
