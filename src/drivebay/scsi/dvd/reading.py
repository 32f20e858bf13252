"""Reading blocks: READ, READ CD, VERIFY, SEEK."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import cut, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.blocks import ReadBlocks
from drivebay.scsi.dvd import cdb as mmc
from drivebay.scsi.dvd.frame import EDC_ECC, HEADER, SYNC, USER_DATA, frame
from drivebay.scsi.dvd.medium import BLOCK, Medium, Profile, lba_of
from drivebay.scsi.replies import Action
from drivebay.scsi.sense import (
    ILLEGAL_MODE_FOR_THIS_TRACK,
    INVALID_FIELD_IN_CDB,
    CheckCondition,
)
from drivebay.scsi.task import Task
from drivebay.suspend import blocking

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["play_audio", "read", "read_cd", "read_cd_msf", "seek", "verify"]

ANY_TYPE, MODE_1 = 0, 2  # expected sector types
HEADER_CODE: Final = 0b01  # of the header codes; the other is the subheader
SUB_CHANNELS: Final = 0b111
AT_ONCE: Final = 32  # blocks in a copy


class ReadData(ReadBlocks):
    """The data of `count` sectors of `medium` from `lba` on, while it stays in the drive."""

    def __init__(self, drive: Dvd, medium: Medium, lba: int, count: int, unit: int = BLOCK) -> None:
        super().__init__(unit, count)
        self._drive, self._medium, self._lba = drive, medium, lba

    async def read(self, first: int, buffers: Buffers) -> None:
        """Read whole blocks."""
        self._drive.check_medium(self._medium)
        await self._medium.read(self._lba + first, buffers)


class ReadFrames(ReadData):
    """The bytes `part` of `count` sectors."""

    def __init__(self, drive: Dvd, medium: Medium, lba: int, count: int, part: range) -> None:
        super().__init__(drive, medium, lba, count, len(part))
        self._part = slice(part.start, part.stop)

    async def read(self, first: int, buffers: Buffers) -> None:
        """Read the blocks and make sectors of them."""
        count = byte_length(buffers) // self.unit
        # A guest may want 12 bytes of each sector: some at a time, or the copies grow large.
        for done in range(0, count, AT_ONCE):
            some = min(AT_ONCE, count - done)
            data = memoryview(bytearray(some * BLOCK))
            await super().read(first + done, [data])
            # Most of a millisecond each: too long for the thread that all devices share.
            sectors = await blocking(partial(self._sectors, self._lba + first + done, data))
            start = done * self.unit
            scatter(cut(buffers, start, start + len(sectors)), memoryview(sectors))

    def _sectors(self, lba: int, data: memoryview) -> bytes:
        return b"".join(
            frame(lba + at // BLOCK, data[at : at + BLOCK])[self._part]
            for at in range(0, len(data), BLOCK)
        )


class VerifyBlocks(Task):
    """Read them, and tell nobody what is in them."""

    def __init__(self, drive: Dvd, medium: Medium, lba: int, count: int) -> None:
        self._drive, self._medium = drive, medium
        self._lba, self._end = lba, lba + count

    async def finish(self) -> None:
        """Read all of them."""
        scratch = memoryview(bytearray(AT_ONCE * BLOCK))
        for lba in range(self._lba, self._end, AT_ONCE):
            self._drive.check_medium(self._medium)
            count = min(AT_ONCE, self._end - lba)
            await self._medium.read(lba, [scratch[: count * BLOCK]])


def read(drive: Dvd, cdb: cdbs.Read10 | cdbs.Read12) -> Task:
    """READ (10) and (12), MMC-6."""
    if cdb.flags & cdbs.ReadFlags.RELADR:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return _blocks(drive, cdb.logical_block_address, cdb.transfer_length)


def _blocks(drive: Dvd, lba: int, count: int) -> Task:
    medium = drive.loaded()
    medium.check_range(lba, count)
    return ReadData(drive, medium, lba, count) if count else Action()


def read_cd(drive: Dvd, cdb: mmc.ReadCd) -> Task:
    """READ CD, MMC-6."""
    lba = cdb.starting_logical_block_address
    return _sectors(drive, cdb, lba, int.from_bytes(cdb.transfer_length))


def read_cd_msf(drive: Dvd, cdb: mmc.ReadCdMsf) -> Task:
    """READ CD MSF, MMC-6."""
    try:
        start, end = lba_of(cdb.starting_msf), lba_of(cdb.ending_msf)
    except ValueError:
        raise CheckCondition(INVALID_FIELD_IN_CDB) from None
    if not 0 <= start <= end:  # nothing lies in the pregap
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return _sectors(drive, cdb, start, end - start)


def _sectors(drive: Dvd, cdb: mmc.ReadCd | mmc.ReadCdMsf, lba: int, count: int) -> Task:
    """Parts of mode 1 sectors, which all are. What is not stored is computed, on a CD."""
    flags, selection = mmc.ReadCdFlags(cdb.flags), mmc.ReadCdSelection(cdb.selection)
    if flags.RELADR or selection.C2_ERROR or cdb.sub_channel_selection & SUB_CHANNELS:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    part = _selected(selection)
    medium = drive.loaded()
    medium.check_range(lba, count)
    if flags.EXPECTED_SECTOR_TYPE not in (ANY_TYPE, MODE_1):
        raise CheckCondition(ILLEGAL_MODE_FOR_THIS_TRACK)
    if not count or not part:
        return Action()
    if part == USER_DATA:
        return ReadData(drive, medium, lba, count)
    if medium.profile != Profile.CD_ROM:
        raise CheckCondition(ILLEGAL_MODE_FOR_THIS_TRACK)
    return ReadFrames(drive, medium, lba, count, part)


def _selected(selection: mmc.ReadCdSelection) -> range:
    """Which bytes of a sector are wanted: they must adjoin. Mode 1 has no subheader to select."""
    parts = [
        part
        for wanted, part in (
            (selection.SYNC, SYNC),
            (selection.HEADER_CODES & HEADER_CODE, HEADER),
            (selection.USER_DATA, USER_DATA),
            (selection.EDC_ECC, EDC_ECC),
        )
        if wanted
    ]
    if not parts:
        return range(0)
    whole = range(parts[0].start, parts[-1].stop)
    if len(whole) != sum(map(len, parts)):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return whole


def seek(drive: Dvd, cdb: cdbs.Cdb10) -> Task:
    """SEEK (10), MMC-6."""
    drive.loaded().check_range(cdb.logical_block_address, 0)
    return Action()


def verify(drive: Dvd, cdb: cdbs.Read10) -> Task:
    """VERIFY (10), MMC-6: the blocks can be read. Nothing to compare them with."""
    if cdb.flags & (cdbs.VerifyFlags.BYTCHK | cdbs.VerifyFlags.RELADR):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    medium = drive.loaded()
    medium.check_range(cdb.logical_block_address, cdb.transfer_length)
    return VerifyBlocks(drive, medium, cdb.logical_block_address, cdb.transfer_length)


def play_audio(drive: Dvd, cdb: cdbs.Cdb10 | cdbs.Cdb12) -> Task:
    """PLAY AUDIO in all its forms, MMC-3: there is only a data track."""
    drive.loaded()
    raise CheckCondition(ILLEGAL_MODE_FOR_THIS_TRACK)
