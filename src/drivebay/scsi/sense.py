"""Sense data: how a SCSI device says what went wrong (SPC-4).

The senses that a device of ours can give are named here, as SPC-4 names them.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = [
    "CheckCondition",
    "DescriptorSense",
    "FixedSense",
    "Sense",
    "SenseKey",
]


CURRENT: Final = 0x70
VALID: Final = 0x80  # of the response code: there is information


class SenseKey(enum.IntEnum):
    """Sense keys, SPC-4."""

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

    def fixed(self) -> bytes:
        """In fixed format, 18 bytes (SPC-4); larger information is left out."""
        information = self.information
        valid = information is not None and information < 1 << 32
        return FixedSense(
            response_code=CURRENT | (VALID if valid else 0),
            sense_key=self.key,
            information=(information or 0) if valid else 0,
            additional_sense_code=self.asc,
            additional_sense_code_qualifier=self.ascq,
        ).pack()

    def descriptor(self) -> bytes:
        """In descriptor format (SPC-4): 8 bytes, 20 with information."""
        tail = b""
        if self.information is not None:
            tail = InformationDescriptor(information=self.information).pack()
        return (
            DescriptorSense(
                sense_key=self.key,
                additional_sense_code=self.asc,
                additional_sense_code_qualifier=self.ascq,
                additional_sense_length=len(tail),
            ).pack()
            + tail
        )


class FixedSense(Struct, size=18, byte_order=">"):
    """Fixed format sense data, SPC-4."""

    response_code: U8 = CURRENT
    obsolete: U8 = 0
    sense_key: U8 = 0
    information: U32 = 0
    additional_sense_length: U8 = 10
    command_specific_information: U32 = 0
    additional_sense_code: U8 = 0
    additional_sense_code_qualifier: U8 = 0
    field_replaceable_unit_code: U8 = 0
    sense_key_specific_high: U8 = 0
    sense_key_specific: U16 = 0


class DescriptorSense(Struct, size=8, byte_order=">"):
    """Descriptor format sense data, SPC-4."""

    response_code: U8 = 0x72
    sense_key: U8 = 0
    additional_sense_code: U8 = 0
    additional_sense_code_qualifier: U8 = 0
    reserved: U16 = 0
    reserved_2: U8 = 0
    additional_sense_length: U8 = 0


class InformationDescriptor(Struct, size=12, byte_order=">"):
    """The sense data descriptor that holds the information, SPC-4."""

    descriptor_type: U8 = 0x00
    additional_length: U8 = 0x0A
    valid: U8 = 0x80
    reserved: U8 = 0
    information: U64 = 0


class CheckCondition(Exception):
    """The command ends with CHECK CONDITION and this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(f"{sense.key.name} {sense.asc:02x}/{sense.ascq:02x}")
        self.sense = sense


_NOT_READY, _MEDIUM, _ILLEGAL = SenseKey.NOT_READY, SenseKey.MEDIUM_ERROR, SenseKey.ILLEGAL_REQUEST
_ATTENTION = SenseKey.UNIT_ATTENTION

NO_SENSE: Final = Sense(SenseKey.NO_SENSE, 0x00, 0x00)
MEDIUM_NOT_PRESENT_TRAY_CLOSED: Final = Sense(_NOT_READY, 0x3A, 0x01)
MEDIUM_NOT_PRESENT_TRAY_OPEN: Final = Sense(_NOT_READY, 0x3A, 0x02)
INITIALIZING_COMMAND_REQUIRED: Final = Sense(_NOT_READY, 0x04, 0x02)
UNRECOVERED_READ_ERROR: Final = Sense(_MEDIUM, 0x11, 0x00)
WRITE_ERROR: Final = Sense(_MEDIUM, 0x0C, 0x00)
INTERNAL_TARGET_FAILURE: Final = Sense(SenseKey.HARDWARE_ERROR, 0x44, 0x00)
PARAMETER_LIST_LENGTH_ERROR: Final = Sense(_ILLEGAL, 0x1A, 0x00)
INVALID_COMMAND_OPERATION_CODE: Final = Sense(_ILLEGAL, 0x20, 0x00)
LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE: Final = Sense(_ILLEGAL, 0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = Sense(_ILLEGAL, 0x24, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST: Final = Sense(_ILLEGAL, 0x26, 0x00)
INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Final = Sense(_ILLEGAL, 0x26, 0x04)
LOGICAL_UNIT_NOT_SUPPORTED: Final = Sense(_ILLEGAL, 0x25, 0x00)
COMMAND_SEQUENCE_ERROR: Final = Sense(_ILLEGAL, 0x2C, 0x00)
CANNOT_READ_MEDIUM_INCOMPATIBLE_FORMAT: Final = Sense(_ILLEGAL, 0x30, 0x02)
SAVING_PARAMETERS_NOT_SUPPORTED: Final = Sense(_ILLEGAL, 0x39, 0x00)
MEDIUM_REMOVAL_PREVENTED: Final = Sense(_ILLEGAL, 0x53, 0x02)
ILLEGAL_MODE_FOR_THIS_TRACK: Final = Sense(_ILLEGAL, 0x64, 0x00)
MEDIUM_MAY_HAVE_CHANGED: Final = Sense(_ATTENTION, 0x28, 0x00)
POWER_ON_OR_RESET: Final = Sense(_ATTENTION, 0x29, 0x00)
MODE_PARAMETERS_CHANGED: Final = Sense(_ATTENTION, 0x2A, 0x01)
RESERVATIONS_PREEMPTED: Final = Sense(_ATTENTION, 0x2A, 0x03)
RESERVATIONS_RELEASED: Final = Sense(_ATTENTION, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED: Final = Sense(_ATTENTION, 0x2A, 0x05)
CAPACITY_DATA_HAS_CHANGED: Final = Sense(_ATTENTION, 0x2A, 0x09)
COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: Final = Sense(_ATTENTION, 0x2F, 0x00)
REPORTED_LUNS_DATA_HAS_CHANGED: Final = Sense(_ATTENTION, 0x3F, 0x0E)
WRITE_PROTECTED: Final = Sense(SenseKey.DATA_PROTECT, 0x27, 0x00)
SPACE_ALLOCATION_FAILED: Final = Sense(SenseKey.DATA_PROTECT, 0x27, 0x07)
DATA_PHASE_ERROR: Final = Sense(SenseKey.ABORTED_COMMAND, 0x4B, 0x00)
MISCOMPARE: Final = Sense(SenseKey.MISCOMPARE, 0x1D, 0x00)
