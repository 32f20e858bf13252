"""The registers that a real drive left, as sense data brings them (SAT-4 section 12.2.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drivebay.ata.passthrough.transport import CHECK_CONDITION, GOOD
from drivebay.ata.registers import Error, Status
from drivebay.scsi.sense import FixedSense, SenseKey
from drivebay.wire import U8, Bit, Bits, Register32, Struct

__all__ = ["AtaReturn", "Returned", "error_of", "failed", "key_of", "registers_of"]

FIXED, DESCRIPTOR = (0x70, 0x71), (0x72, 0x73)  # response codes: current and deferred
ATA_RETURN: Final = 0x09
INFORMATION_AVAILABLE: Final = (0x00, 0x1D)  # ATA PASS-THROUGH INFORMATION AVAILABLE
OUT_OF_RANGE: Final = (0x21, 0x00)
BSY, DRDY, DF, DRQ, ERR = (
    int(bit) for bit in (Status.BSY, Status.DRDY, Status.DF, Status.DRQ, Status.ERR)
)
HARMLESS: Final = (SenseKey.NO_SENSE, SenseKey.RECOVERED_ERROR)
VALID: Final = 0x80  # of the response code: there is information


class AtaReturn(Struct, size=14):
    """The ATA Status Return sense descriptor."""

    descriptor_type: U8 = ATA_RETURN
    additional_length: U8 = 12
    extend: U8 = 0
    error: U8 = 0
    count_high: U8 = 0
    count: U8 = 0
    lba_low_high: U8 = 0
    lba_low: U8 = 0
    lba_mid_high: U8 = 0
    lba_mid: U8 = 0
    lba_high_high: U8 = 0
    lba_high: U8 = 0
    device: U8 = 0
    status: U8 = 0


class FixedInformation(Register32):
    """What the INFORMATION field is in fixed format."""

    ERROR = Bits(31, 24)
    STATUS = Bits(23, 16)
    DEVICE = Bits(15, 8)
    COUNT = Bits(7, 0)


class FixedSpecific(Register32):
    """What the COMMAND-SPECIFIC INFORMATION field is in fixed format."""

    EXTEND = Bit(31)
    COUNT_UPPER_NONZERO = Bit(30)
    LBA_UPPER_NONZERO = Bit(29)
    LOG_INDEX = Bits(27, 24)
    LBA_LOW = Bits(23, 16)
    LBA_MID = Bits(15, 8)
    LBA_HIGH = Bits(7, 0)


@dataclass(frozen=True)
class Returned:
    """Registers, count and `lba` (low, mid, high) with their previous bytes above the current ones;
    `whole` unless the drive had more in these than the sense has room for. `lba` is None if it did
    not come.
    """

    status: int
    error: int
    device: int
    count: int
    lba: tuple[int, int, int] | None
    whole: bool = True


def registers_of(sense: bytes) -> Returned | None:
    """The registers in sense data of either format; None if it does not have them."""
    code = sense[0] & 0x7F if sense else 0
    if code in DESCRIPTOR:
        return _from_descriptors(sense)
    if code in FIXED and len(sense) >= FixedSense.size:
        return _from_fixed(FixedSense.unpack(sense))
    return None


def _from_descriptors(sense: bytes) -> Returned | None:
    at, end = 8, min(len(sense), 8 + (sense[7] if len(sense) > 7 else 0))
    while at + 2 <= end:
        if sense[at] == ATA_RETURN and at + AtaReturn.size <= end:
            found = AtaReturn.unpack(sense, at)
            return Returned(
                found.status,
                found.error,
                found.device,
                found.count_high << 8 | found.count,
                (
                    found.lba_low_high << 8 | found.lba_low,
                    found.lba_mid_high << 8 | found.lba_mid,
                    found.lba_high_high << 8 | found.lba_high,
                ),
            )
        at += 2 + sense[at + 1]
    return None


def _from_fixed(sense: FixedSense) -> Returned | None:
    """A sense of another kind has no registers: with VALID the information is an LBA, and no drive
    ends a command without DRDY.

    Linux 6.1 and its like put the registers of a failure five bytes too far, where most of the LBA
    does not come through.
    """
    code = (sense.additional_sense_code, sense.additional_sense_code_qualifier)
    if sense.response_code & VALID and code != INFORMATION_AVAILABLE:
        return None
    information = FixedInformation(sense.information)
    displaced = FixedInformation(sense.command_specific_information)
    if information.STATUS & (BSY | DRDY) == DRDY:
        specific = FixedSpecific(sense.command_specific_information)
        lba = (specific.LBA_LOW, specific.LBA_MID, specific.LBA_HIGH)
        whole = not (specific.COUNT_UPPER_NONZERO or specific.LBA_UPPER_NONZERO)
        return _returned(information, lba, whole)
    if not information and displaced.STATUS & (BSY | DRDY) == DRDY:
        return _returned(displaced, None, False)
    return None


def _returned(
    registers: FixedInformation, lba: tuple[int, int, int] | None, whole: bool
) -> Returned:
    return Returned(
        registers.STATUS, registers.ERROR, registers.DEVICE, registers.COUNT, lba, whole
    )


def key_of(sense: bytes) -> tuple[int, int, int]:
    """Sense key, additional code and qualifier; zeroes where there are none."""
    code = sense[0] & 0x7F if sense else 0
    if code in DESCRIPTOR and len(sense) >= 4:
        return sense[1] & 0xF, sense[2], sense[3]
    if code in FIXED and len(sense) >= 14:
        return sense[2] & 0xF, sense[12], sense[13]
    return 0, 0, 0


def failed(status: int, sense: bytes, pio_in: bool = False) -> bool:
    """Whether a command that ended with SCSI status and sense has failed; `pio_in` is its protocol.

    They take the DRQ of the last block for a failure of PIO data-in, too, if the controller leaves
    it in Status; then the registers are right and the sense key is not.
    """
    harmless = key_of(sense)[0] in HARMLESS
    returned = registers_of(sense)
    if returned is None:
        return status != GOOD and not (status == CHECK_CONDITION and harmless)
    if returned.status & (ERR | DF):
        return True
    return not harmless and not (pio_in and returned.status & DRQ)


def error_of(sense: bytes) -> int:
    """The Error register for a failure: the drive's, or without one what the sense key says."""
    returned = registers_of(sense)
    if returned is not None and returned.error:
        return returned.error
    key, *code = key_of(sense)
    if key == SenseKey.MEDIUM_ERROR:
        return int(Error.UNC)
    if tuple(code) == OUT_OF_RANGE:
        return int(Error.ABRT | Error.IDNF)
    return int(Error.ABRT)
