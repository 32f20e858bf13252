"""Sense data: how a SCSI device says what went wrong (SPC-5 section 4.5)."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["CheckCondition", "Sense", "SenseKey"]


class SenseKey(enum.IntEnum):
    """SPC-5 table 48."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    ABORTED_COMMAND = 0xB
    MISCOMPARE = 0xE


class Sense(NamedTuple):
    """A sense key with its additional sense code and qualifier."""

    key: SenseKey
    asc: int
    ascq: int
    information: int | None = None
    """What the INFORMATION field holds: for media errors the LBA."""


class CheckCondition(Exception):
    """The command ends with CHECK CONDITION and this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02x}/{sense.ascq:02x}")
        self.sense = sense
