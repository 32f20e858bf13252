"""LOG SENSE (SPC-4 section 7.3, SBC-3 section 6.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from drivebay.disk.contract import Unmap
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.replies import Reply
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, CheckCondition
from drivebay.scsi.task import Task
from drivebay.wire import U8, U16, U32, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["log_sense"]

SUPPORTED_PAGES, PROVISIONING, TEMPERATURE, INFORMATIONAL_EXCEPTIONS = 0x00, 0x0C, 0x0D, 0x2F
CUMULATIVE: Final = 1
BINARY_LIST: Final = 0x03
USED_RESOURCES: Final = 0x0002
UNIT_SHIFT: Final = 11
"""Threshold sets of 2^11 blocks, as the exponent of page B2 would be."""
NO_TEMPERATURE: Final = 0xFF


class LogHeader(Struct, size=4, byte_order=">"):
    """Before the parameters of a log page."""

    page_code: U8 = 0
    subpage_code: U8 = 0
    page_length: U16 = 0


class LogParameter(Struct, size=4, byte_order=">"):
    """Before the value of a parameter."""

    parameter_code: U16 = 0
    control: U8 = BINARY_LIST
    parameter_length: U8 = 0


class Temperature(Struct, size=2, byte_order=">"):
    """Parameter 0 of page 0D, in degrees Celsius."""

    reserved: U8 = 0
    temperature: U8 = NO_TEMPERATURE


class InformationalException(Struct, size=4, byte_order=">"):
    """Parameter 0 of page 2F: none."""

    additional_sense_code: U8 = 0
    additional_sense_code_qualifier: U8 = 0
    most_recent_temperature: U8 = NO_TEMPERATURE
    reserved: U8 = 0


class UsedResources(Struct, size=8, byte_order=">"):
    """Parameter 2 of page 0C."""

    resource_count: U32 = 0
    flags: U8 = 0
    reserved: Annotated[bytes, "3s"] = bytes(3)


def log_sense(unit: ScsiDisk, cdb: sbc.LogSense) -> Task:
    """LOG SENSE."""
    page = sbc.LogSensePage(cdb.page)
    pages = _pages(unit)
    code = page.PAGE_CODE
    unknown = code not in pages or cdb.subpage_code or page.PC != CUMULATIVE
    if unknown or cdb.save & 1 or cdb.parameter_pointer:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    body = pages[code]
    return Reply(LogHeader(code, 0, len(body)).pack() + body, cdb.allocation_length)


def _pages(unit: ScsiDisk) -> dict[int, bytes]:
    """Each page that there is, without its header."""
    pages = {
        TEMPERATURE: _parameter(0, Temperature()),
        INFORMATIONAL_EXCEPTIONS: _parameter(0, InformationalException()),
    }
    allocated = unit.disk.allocated_bytes
    if allocated is not None and unit.disk.unmap_behaviour is not Unmap.IGNORED:
        used = min(allocated // unit.block >> UNIT_SHIFT, 0xFFFFFFFF)
        pages[PROVISIONING] = _parameter(USED_RESOURCES, UsedResources(used))
    pages[SUPPORTED_PAGES] = bytes(sorted({SUPPORTED_PAGES, *pages}))
    return pages


def _parameter(code: int, value: Struct) -> bytes:
    data = value.pack()
    return LogParameter(code, parameter_length=len(data)).pack() + data
