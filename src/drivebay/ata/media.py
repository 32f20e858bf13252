"""Commands that reach the medium: reads, writes, verifies, flushes and TRIM."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from drivebay.ata.command import Aborted, Command, DataOut, Protocol
from drivebay.ata.registers import Error
from drivebay.ata.settings import Power
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.contract import Buffers, byte_length
from drivebay.disk.errors import IllegalBlock, Medium, MediumError
from drivebay.wire import Bits, Register64

if TYPE_CHECKING:
    from drivebay.ata.disk import AtaDisk

__all__ = [
    "TRIM_BLOCK",
    "Flush",
    "MediaAccess",
    "Read",
    "Span",
    "Trim",
    "Verify",
    "Write",
    "trim_ranges",
]

ABRT, IDNF, UNC = int(Error.ABRT), int(Error.IDNF), int(Error.UNC)
TRIM_BLOCK: Final = 512
"""Bytes of a block of LBA range entries, whatever the sector size (ACS-3 section 7.5)."""
VERIFY_BYTES: Final = 1 << 18
RANGE: Final = struct.Struct("<Q")


class RangeEntry(Register64):
    """An LBA range entry of DATA SET MANAGEMENT (ACS-3 table 44)."""

    COUNT = Bits(63, 48)
    LBA = Bits(47, 0)


class Span(NamedTuple):
    """Sectors that a command names, and whether it named them with 48 bits."""

    lba: int
    sectors: int
    ext: bool


class MediaAccess(Command):
    """A command on sectors. What it leaves in the registers is in the form the host asked in: 28 or
    48 bits, or cylinder, head and sector.
    """

    def __init__(self, drive: AtaDisk, taskfile: TaskFile, span: Span) -> None:
        self._drive, self._taskfile, self._span = drive, taskfile, span
        self.unit = self.block = drive.sector_size

    def must_be_good(self, lba: int, buffers: Buffers) -> None:
        """Raises `MediumError` if one of the sectors for `buffers` was declared bad."""
        if self._drive.bad:
            first = self._drive.bad.first(lba, byte_length(buffers) // self.unit)
            if first is not None:
                raise MediumError(Medium.UNRECOVERED_READ, first)

    def ended(self, offset: int, failure: Exception | None) -> int:
        """The registers name the last sector moved, or the one that failed."""
        lba, count, ext = self._span
        moved = offset // self.unit
        if failure is None:
            at, left = lba + max(count - 1, 0), 0
        else:
            at, left = lba + min(moved, max(count - 1, 0)), count - moved
            if isinstance(failure, MediumError) and failure.sector is not None:
                at = failure.sector
        self._drive.settings.power = Power.ACTIVE
        self._drive.tell_address(self._taskfile, at, ext)
        self._taskfile.count = left & 0xFFFF
        return error_bits(failure)


def error_bits(failure: Exception | None) -> int:
    """The Error register for what a disk raised (ATA/ATAPI-6 section 8)."""
    if failure is None:
        return 0
    if isinstance(failure, Aborted):
        return failure.bits
    if isinstance(failure, IllegalBlock):
        return IDNF
    if isinstance(failure, MediumError) and failure.kind is not Medium.WRITE_FAULT:
        return UNC
    return ABRT


class _Transfer(MediaAccess):
    """A read or a write, in any protocol; `multiple` sectors make a DRQ block."""

    def __init__(
        self,
        drive: AtaDisk,
        taskfile: TaskFile,
        span: Span,
        protocol: Protocol,
        multiple: int = 1,
    ) -> None:
        super().__init__(drive, taskfile, span)
        self.protocol = protocol
        self.length = span.sectors * self.unit
        self.block = multiple * self.unit
        self.interrupts_at_end = protocol is not Protocol.PIO_IN


class Read(_Transfer):
    """READ SECTORS, MULTIPLE and DMA."""

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Straight into the host's memory."""
        lba = self._span.lba + offset // self.unit
        self.must_be_good(lba, buffers)
        await self._drive.disk.read(lba, buffers)


class Write(_Transfer):
    """WRITE SECTORS, MULTIPLE and DMA; with `fua`, or the write cache off, stable as it ends."""

    fua = False

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Straight from the host's memory."""
        drive = self._drive
        fua = self.fua or not drive.write_cache
        lba = self._span.lba + offset // self.unit
        await drive.disk.write(lba, buffers, fua)
        drive.bad.clear(lba, byte_length(buffers) // self.unit)


class Verify(MediaAccess):
    """READ VERIFY SECTORS: read, and throw away."""

    async def finish(self) -> None:
        """Read it all, a piece at a time."""
        lba, count, _ = self._span
        piece = memoryview(bytearray(min(VERIFY_BYTES, count * self.unit)))
        step = len(piece) // self.unit
        for first in range(0, count, step):
            size = min(step, count - first) * self.unit
            self.must_be_good(lba + first, [piece[:size]])
            await self._drive.disk.read(lba + first, [piece[:size]])


class Flush(Command):
    """FLUSH CACHE."""

    def __init__(self, drive: AtaDisk) -> None:
        self._drive = drive

    async def finish(self) -> None:
        """Flush."""
        if not self._drive.disk.read_only:
            await self._drive.disk.flush()


class Trim(DataOut):
    """DATA SET MANAGEMENT with TRIM (ACS-3 section 7.5): every range is checked before any goes."""

    def __init__(self, drive: AtaDisk, taskfile: TaskFile, blocks: int) -> None:
        super().__init__(blocks * TRIM_BLOCK, Protocol.DMA_OUT)
        self._drive, self._taskfile = drive, taskfile

    async def finish(self) -> None:
        """Unmap the ranges."""
        disk, capacity = self._drive.disk, self._drive.sectors
        ranges = list(trim_ranges(self.received))
        for lba, count in ranges:
            if lba + count > capacity:
                self._drive.tell_address(self._taskfile, lba, True)
                raise Aborted(ABRT | IDNF, f"TRIM of {lba}+{count} past the end")
        for lba, count in ranges:
            await disk.unmap(lba, count)
            self._drive.bad.clear(lba, count)

    def ended(self, offset: int, failure: Exception | None) -> int:
        """As for any access to the medium."""
        return error_bits(failure)


def trim_ranges(data: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """The LBA range entries in `data`, without the empty ones: first sector and count."""
    for (number,) in RANGE.iter_unpack(data):
        entry = RangeEntry(number)
        if entry.COUNT:
            yield entry.LBA, entry.COUNT
