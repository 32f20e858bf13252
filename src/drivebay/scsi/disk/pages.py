"""A disk's mode pages (SBC-3 section 6.4, SPC-4 section 7.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.scsi.mode import ModePage, ModePages
from drivebay.wire import U8, U16, U32, Bit, Bits, Register8, Struct

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = ["DiskPages"]

UNRESTRICTED: Final = 0x10


class ErrorRecovery(Struct, size=12, byte_order=">"):
    """Page 01: what is bad is replaced, without our doing."""

    page_code: U8 = 0x01
    page_length: U8 = 10
    flags: U8 = 0xC0
    """AWRE, ARRE."""
    read_retry_count: U8 = 0
    obsolete: U32 = 0
    write_retry_count: U8 = 0
    reserved: U8 = 0
    recovery_time_limit: U16 = 0


class CachingFlags(Register8):
    """Page 08 byte 2."""

    WCE = Bit(2)
    RCD = Bit(0)


class Caching(Struct, size=20, byte_order=">"):
    """Page 08."""

    page_code: U8 = 0x08
    page_length: U8 = 18
    flags: U8 = 0
    retention_priority: U8 = 0
    disable_prefetch_transfer_length: U16 = 0
    minimum_prefetch: U16 = 0
    maximum_prefetch: U16 = 0
    maximum_prefetch_ceiling: U16 = 0
    flags_12: U8 = 0
    number_of_cache_segments: U8 = 0
    cache_segment_size: U16 = 0
    reserved: U32 = 0


class ControlFlags(Register8):
    """Page 0A byte 2."""

    TST = Bits(7, 5)
    D_SENSE = Bit(2)  # sense in descriptor format
    GLTSD = Bit(1)  # log parameters are not saved


class Control(Struct, size=12, byte_order=">"):
    """Page 0A."""

    page_code: U8 = 0x0A
    page_length: U8 = 10
    flags: U8 = ControlFlags.GLTSD
    queueing: U8 = UNRESTRICTED
    """Queue algorithm modifier 1: simple tasks in any order; QERR 0: each fails alone."""
    flags_4: U8 = 0
    flags_5: U8 = 0
    obsolete: U16 = 0
    busy_timeout_period: U16 = 0xFFFF
    extended_self_test_completion_time: U16 = 0


class InformationalExceptions(Struct, size=12, byte_order=">"):
    """Page 1C: there are none."""

    page_code: U8 = 0x1C
    page_length: U8 = 10
    flags: U8 = 0
    method_of_reporting: U8 = 0
    interval_timer: U32 = 0
    report_count: U32 = 0


class CachingPage(ModePage):
    """Its WCE is what the disk does."""

    def __init__(self, unit: ScsiDisk) -> None:
        has_cache = unit.disk.volatile_cache
        wce = CachingFlags.of(WCE=has_cache)
        super().__init__(
            Caching(flags=wce), Caching(flags=wce), lambda: self._now(unit.write_cache)
        )
        self._unit = unit

    def _now(self, write_cache: bool) -> Caching:
        return Caching(flags=CachingFlags.of(WCE=write_cache))

    def change(self, page: bytes) -> None:
        """Make it `page`, which it accepts."""
        self._unit.write_cache = bool(Caching.unpack(page).flags & CachingFlags.WCE)

    def reset(self) -> None:
        """As at first."""
        self.change(self.default)


class DiskPages(ModePages):
    """The pages of `unit`."""

    def __init__(self, unit: ScsiDisk) -> None:
        self._control = ModePage(
            Control(), Control(flags=ControlFlags.D_SENSE, queueing=0, busy_timeout_period=0)
        )
        super().__init__(
            [
                ModePage(ErrorRecovery()),
                CachingPage(unit),
                self._control,
                ModePage(InformationalExceptions()),
            ],
            unit.block,
        )

    @property
    def descriptor_sense(self) -> bool:
        """Whether the initiator wants its sense in descriptor format (D_SENSE)."""
        return bool(Control.unpack(self._control.current).flags & ControlFlags.D_SENSE)
