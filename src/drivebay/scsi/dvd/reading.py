"""Reading blocks: READ, READ CD, VERIFY, SEEK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.dvd.medium import BLOCK, Medium, lba_of
from drivebay.scsi.replies import Action
from drivebay.scsi.sense import (
    ILLEGAL_MODE_FOR_THIS_TRACK,
    INVALID_FIELD_IN_CDB,
    CheckCondition,
)
from drivebay.scsi.task import Direction, Task

if TYPE_CHECKING:
    from drivebay.scsi.dvd.drive import Dvd

__all__ = ["play_audio", "read", "read_cd", "read_cd_msf", "seek", "verify"]

ANY_TYPE, MODE_1 = 0, 2  # expected sector types
VERIFIED_AT_ONCE: Final = 32  # blocks


class ReadBlocks(Task):
    """`count` blocks of `medium` from `lba` on, while it stays in the drive.

    Whole blocks go straight into the buffers they are wanted in; a part of one, which a caller
    should not ask for, is cut out of a copy.
    """

    direction = Direction.IN
    unit = BLOCK

    def __init__(self, drive: Dvd, medium: Medium, lba: int, count: int) -> None:
        self._drive, self._medium, self._lba = drive, medium, lba
        self.length = count * BLOCK

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Read."""
        length = byte_length(buffers)
        if offset < 0 or offset + length > self.length:
            raise ValueError(f"bytes {offset}+{length} of {self.length}")
        first, skip = divmod(offset, BLOCK)
        if not skip and not length % BLOCK:
            await self._read(first, buffers)
            return
        last = -(-(offset + length) // BLOCK)
        copy = memoryview(bytearray((last - first) * BLOCK))
        await self._read(first, [copy])
        scatter(buffers, copy[skip : skip + length])

    async def _read(self, first: int, buffers: Buffers) -> None:
        self._drive.check_medium(self._medium)
        await self._medium.read(self._lba + first, buffers)


class VerifyBlocks(Task):
    """Read them, and tell nobody what is in them."""

    def __init__(self, drive: Dvd, medium: Medium, lba: int, count: int) -> None:
        self._drive, self._medium = drive, medium
        self._lba, self._end = lba, lba + count

    async def finish(self) -> None:
        """Read all of them."""
        scratch = memoryview(bytearray(VERIFIED_AT_ONCE * BLOCK))
        for lba in range(self._lba, self._end, VERIFIED_AT_ONCE):
            self._drive.check_medium(self._medium)
            count = min(VERIFIED_AT_ONCE, self._end - lba)
            await self._medium.read(lba, [scratch[: count * BLOCK]])


def read(drive: Dvd, cdb: cdbs.Read10 | cdbs.Read12) -> Task:
    """READ (10) and (12), MMC-6."""
    if cdb.flags & cdbs.ReadFlags.RELADR:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return _blocks(drive, cdb.logical_block_address, cdb.transfer_length)


def _blocks(drive: Dvd, lba: int, count: int) -> Task:
    medium = drive.loaded()
    medium.check_range(lba, count)
    return ReadBlocks(drive, medium, lba, count) if count else Action()


def read_cd(drive: Dvd, cdb: cdbs.ReadCd) -> Task:
    """READ CD, MMC-6."""
    lba = cdb.starting_logical_block_address
    return _sectors(drive, cdb, lba, int.from_bytes(cdb.transfer_length))


def read_cd_msf(drive: Dvd, cdb: cdbs.ReadCdMsf) -> Task:
    """READ CD MSF, MMC-6."""
    try:
        start, end = lba_of(cdb.starting_msf), lba_of(cdb.ending_msf)
    except ValueError:
        raise CheckCondition(INVALID_FIELD_IN_CDB) from None
    if not 0 <= start <= end:  # nothing lies in the pregap
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return _sectors(drive, cdb, start, end - start)


def _sectors(drive: Dvd, cdb: cdbs.ReadCd | cdbs.ReadCdMsf, lba: int, count: int) -> Task:
    """The user data of mode 1 sectors, which all are."""
    flags = cdbs.ReadCdFlags(cdb.flags)
    if flags.RELADR or cdb.sub_channel_selection & 0b111:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    selection = cdbs.ReadCdSelection(cdb.selection)
    wanted = selection & ~1
    if wanted not in (0, cdbs.ReadCdSelection.USER_DATA):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    task = _blocks(drive, lba, count)
    if flags.EXPECTED_SECTOR_TYPE not in (ANY_TYPE, MODE_1):
        raise CheckCondition(ILLEGAL_MODE_FOR_THIS_TRACK)
    return task if wanted else Action()


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
