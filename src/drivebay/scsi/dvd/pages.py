"""The drive's mode pages (MMC-6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.scsi.dvd.medium import BLOCK
from drivebay.scsi.mode import ModePage, ModePages
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["Capabilities", "pages"]

TRAY: Final = 1
BUFFER_KIB: Final = 512
MAX_SPEED: Final = 22160
"""The fastest read there is, in units of 1000 bytes a second: 16 times a DVD's."""


class ReadErrorRecovery(Struct, size=12, byte_order=">"):
    """Page 01, MMC-6."""

    page_code: U8 = 0x01
    page_length: U8 = 10
    error_recovery: U8 = 0
    read_retry_count: U8 = 5
    reserved: U32 = 0
    write_retry_count: U8 = 0
    reserved_2: U8 = 0
    error_reporting_window: U16 = 0


class PowerCondition(Struct, size=12, byte_order=">"):
    """Page 1A, MMC-6."""

    page_code: U8 = 0x1A
    page_length: U8 = 10
    reserved: U8 = 0
    idle_standby: U8 = 0
    idle_timer: U32 = 0
    standby_timer: U32 = 0


class TimeoutAndProtect(Struct, size=12, byte_order=">"):
    """Page 1D; minimum timeouts in seconds."""

    page_code: U8 = 0x1D
    page_length: U8 = 10
    reserved: U16 = 0
    flags: U8 = 0
    reserved_2: U8 = 0
    group_1_minimum_timeout: U16 = 5
    group_2_minimum_timeout: U16 = 20
    group_3_minimum_timeout: U16 = 10


class Reads(Register8):
    """Page 2A byte 2."""

    DVD_RAM = Bit(5)
    DVD_R = Bit(4)
    DVD_ROM = Bit(3)
    METHOD_2 = Bit(2)
    CD_RW = Bit(1)
    CD_R = Bit(0)


class Loading(Register8):
    """Page 2A byte 6."""

    MECHANISM_TYPE = Bits(7, 5)
    EJECT = Bit(3)
    PREVENT_JUMPER = Bit(2)
    LOCK_STATE = Bit(1)
    LOCK = Bit(0)


MULTI_SESSION: Final = 0x40


class Capabilities(Struct, size=26, byte_order=">"):
    """MM Capabilities and Mechanical Status, MMC-3; speeds in units
    of 1000 bytes a second, the buffer in KiB.
    """

    page_code: U8 = 0x2A
    page_length: U8 = 24
    reads: U8 = Reads.DVD_R | Reads.DVD_ROM | Reads.CD_RW | Reads.CD_R
    writes: U8 = 0
    flags_4: U8 = MULTI_SESSION
    flags_5: U8 = 0
    loading: U8 = 0
    flags_7: U8 = 0
    maximum_read_speed: U16 = MAX_SPEED
    volume_levels: U16 = 0
    buffer_size: U16 = BUFFER_KIB
    current_read_speed: U16 = MAX_SPEED
    reserved: U8 = 0
    digital_output: U8 = 0
    maximum_write_speed: U16 = 0
    current_write_speed: U16 = 0
    copy_management_revision: U16 = 0
    reserved_2: U16 = 0


def pages(drive: Dvd) -> ModePages:
    """The pages of `drive`."""

    def capabilities() -> Capabilities:
        loading = Loading.of(MECHANISM_TYPE=TRAY, EJECT=1, LOCK_STATE=drive.locked, LOCK=1)
        return Capabilities(loading=loading, current_read_speed=drive.read_speed)

    at_first = Capabilities(loading=Loading.of(MECHANISM_TYPE=TRAY, EJECT=1, LOCK=1))
    return ModePages(
        [
            ModePage(
                ReadErrorRecovery(), ReadErrorRecovery(error_recovery=0xFF, read_retry_count=0xFF)
            ),
            ModePage(
                PowerCondition(),
                PowerCondition(idle_standby=0b11, idle_timer=0xFFFFFFFF, standby_timer=0xFFFFFFFF),
            ),
            ModePage(TimeoutAndProtect()),
            ModePage(at_first, live=capabilities),
        ],
        block_length=BLOCK,
    )
