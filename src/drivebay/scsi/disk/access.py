"""Reading, writing, comparing: the commands that take a range of blocks (SBC-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import ZEROES, cut
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi import cdb as cdbs
from drivebay.scsi.blocks import ReadBlocks
from drivebay.scsi.disk import cdb as sbc
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.replies import Action
from drivebay.scsi.sense import INVALID_FIELD_IN_CDB, MISCOMPARE, CheckCondition
from drivebay.scsi.task import Direction, Task
from drivebay.suspend import Turn

if TYPE_CHECKING:
    from drivebay.scsi.disk.disk import ScsiDisk

__all__ = [
    "MOST_COMPARED",
    "MOST_WRITTEN_SAME",
    "compare_and_write",
    "flush",
    "prefetch",
    "read",
    "seek",
    "verify",
    "write",
    "write_and_verify",
    "write_same",
]

Range = sbc.Read6 | cdbs.Read10 | cdbs.Read12 | sbc.Read16

MOST_COMPARED: Final = 0xFF
"""Blocks of a COMPARE AND WRITE: the number has a byte."""
MOST_WRITTEN_SAME: Final = 1 << 30
"""Bytes of a WRITE SAME: such a command has no data that would limit it."""
AT_ONCE: Final = 1 << 18
"""Bytes that are read at once for comparing."""

COMPARE_NOTHING, COMPARE_ALL, COMPARE_ONE = 0, 1, 3  # BYTCHK


def _range(unit: ScsiDisk, cdb: Range) -> tuple[int, int]:
    """First block and number. Raises `CheckCondition` unless they are on the disk."""
    lba, count = cdb.logical_block_address, cdb.transfer_length
    if isinstance(cdb, sbc.Read6):
        count = count or 256
    elif cdb.flags & cdbs.ReadFlags.RELADR or cdb.flags & sbc.WriteSameFlags.WRPROTECT:
        raise CheckCondition(INVALID_FIELD_IN_CDB)  # no relative addresses, no protection
    unit.check_range(lba, count)
    return lba, count


def _fua(cdb: Range | sbc.CompareAndWrite) -> bool:
    return not isinstance(cdb, sbc.Read6) and bool(cdb.flags & cdbs.ReadFlags.FUA)


class Read(ReadBlocks):
    """READ."""

    def __init__(self, disk: ScsiDisk, lba: int, count: int) -> None:
        super().__init__(disk.block, count)
        self._disk, self._lba = disk, lba

    async def read(self, first: int, buffers: Buffers) -> None:
        """Read."""
        await self._disk.read(self._lba + first, buffers)


class Write(Task):
    """WRITE: parts go to the disk as they come."""

    direction = Direction.OUT

    def __init__(self, disk: ScsiDisk, lba: int, count: int, fua: bool) -> None:
        self._disk, self._lba, self._fua = disk, lba, fua
        self.unit, self.length = disk.block, count * disk.block

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Write whole blocks."""
        await self._disk.write(self._lba + offset // self.unit, buffers, self._fua)


class Verify(Task):
    """VERIFY without data: the blocks can be read."""

    def __init__(self, disk: ScsiDisk, lba: int, count: int) -> None:
        self._disk, self._lba, self._count = disk, lba, count

    async def finish(self) -> None:
        """Read all of them, and tell nobody what is in them."""
        await self._disk.compare(self._lba, self._count)


class Compare(Task):
    """VERIFY with data, for every block or one for all."""

    direction = Direction.OUT

    def __init__(self, disk: ScsiDisk, lba: int, count: int, every: bool) -> None:
        self._disk, self._lba, self._count, self._every = disk, lba, count, every
        self.unit = disk.block
        self.length = (count if every else 1) * disk.block

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Compare what has come."""
        if self._every:
            count = byte_length(buffers) // self.unit
            await self._disk.compare(self._lba + offset // self.unit, count, buffers)
            return
        pattern = b"".join(buffers)
        for done in range(0, self._count, step := max(1, AT_ONCE // self.unit)):
            count = min(step, self._count - done)
            if done:
                await Turn()
            await self._disk.compare(self._lba + done, count, [memoryview(pattern * count)])


class WriteAndVerify(Write):
    """WRITE AND VERIFY: what was written is read again, and compared if that is asked for."""

    def __init__(self, disk: ScsiDisk, lba: int, count: int, compare: bool) -> None:
        super().__init__(disk, lba, count, fua=True)
        self._compare = compare

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Write and read whole blocks."""
        await super().transfer(offset, buffers)
        lba, count = self._lba + offset // self.unit, byte_length(buffers) // self.unit
        await self._disk.compare(lba, count, buffers if self._compare else None)


class CompareAndWrite(Task):
    """COMPARE AND WRITE: what is compared comes first, then what is written."""

    direction = Direction.OUT

    def __init__(self, disk: ScsiDisk, lba: int, count: int, fua: bool) -> None:
        self._disk, self._lba, self._count, self._fua = disk, lba, count, fua
        self.length = 2 * count * disk.block
        self._data = bytearray()

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Keep it: nothing may happen before all has come."""
        self._data += b"".join(buffers)

    async def finish(self) -> None:
        """Compare, then write."""
        half = self._count * self._disk.block
        data = memoryview(self._data)
        async with self._disk.gate.alone():
            await self._disk.compare(self._lba, self._count, [data[:half]])
            await self._disk.write_alone(self._lba, [data[half:]], self._fua)


class WriteSame(Task):
    """WRITE SAME: one block, which may be of zeroes, for all of them."""

    def __init__(self, disk: ScsiDisk, lba: int, count: int, unmap: bool, no_data: bool) -> None:
        self._disk, self._lba, self._count, self._unmap = disk, lba, count, unmap
        self._block = bytes(disk.block)
        if not no_data:
            self.direction = Direction.OUT
            self.length = disk.block

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Keep the block."""
        self._block = b"".join(buffers)

    async def finish(self) -> None:
        """Write it everywhere."""
        if self._block == ZEROES[: len(self._block)]:
            await self._disk.write_zeroes(self._lba, self._count, self._unmap)
            return
        step = max(1, AT_ONCE // len(self._block))
        pattern = memoryview(self._block * min(step, self._count))
        for done in range(0, self._count, step):
            if done:
                await Turn()  # however many blocks, others get their turn
            size = min(step, self._count - done) * len(self._block)
            await self._disk.write(self._lba + done, cut([pattern], 0, size), False)


def read(unit: ScsiDisk, cdb: Range) -> Task:
    """READ (6), (10), (12), (16). FUA: nothing is cached that is newer than the disk."""
    lba, count = _range(unit, cdb)
    return Read(unit, lba, count) if count else Action()


def write(unit: ScsiDisk, cdb: Range) -> Task:
    """WRITE (6), (10), (12), (16)."""
    lba, count = _range(unit, cdb)
    return Write(unit, lba, count, _fua(cdb)) if count else Action()


def verify(unit: ScsiDisk, cdb: cdbs.Read10 | cdbs.Read12 | sbc.Read16) -> Task:
    """VERIFY (10), (12), (16)."""
    lba, count = _range(unit, cdb)
    check = cdbs.VerifyFlags(cdb.flags).BYTCHK
    if check not in (COMPARE_NOTHING, COMPARE_ALL, COMPARE_ONE):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    if not count:
        return Action()
    if check == COMPARE_NOTHING:
        return Verify(unit, lba, count)
    return Compare(unit, lba, count, check == COMPARE_ALL)


def write_and_verify(unit: ScsiDisk, cdb: cdbs.Read10 | cdbs.Read12 | sbc.Read16) -> Task:
    """WRITE AND VERIFY (10), (12), (16)."""
    lba, count = _range(unit, cdb)
    check = cdbs.VerifyFlags(cdb.flags).BYTCHK
    if check not in (COMPARE_NOTHING, COMPARE_ALL):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return WriteAndVerify(unit, lba, count, check == COMPARE_ALL) if count else Action()


def compare_and_write(unit: ScsiDisk, cdb: sbc.CompareAndWrite) -> Task:
    """COMPARE AND WRITE."""
    if cdb.flags & sbc.WriteSameFlags.WRPROTECT:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    lba, count = cdb.logical_block_address, cdb.number_of_logical_blocks
    unit.check_range(lba, count)
    return CompareAndWrite(unit, lba, count, _fua(cdb)) if count else Action()


def write_same(unit: ScsiDisk, cdb: cdbs.Read10 | sbc.Read16) -> Task:
    """WRITE SAME (10) and (16). A count of zero is all blocks to the end."""
    flags = sbc.WriteSameFlags(cdb.flags)
    no_data = bool(flags.NDOB) and cdb.operation_code == Opcode.WRITE_SAME_16
    if flags.WRPROTECT or flags.ANCHOR or (flags.NDOB and not no_data):
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    lba, count = cdb.logical_block_address, cdb.transfer_length
    unit.check_range(lba, count)
    count = count or unit.disk.sector_count - lba
    if count * unit.block > MOST_WRITTEN_SAME:
        raise CheckCondition(INVALID_FIELD_IN_CDB)
    return WriteSame(unit, lba, count, bool(flags.UNMAP), no_data)


class Flush(Task):
    """SYNCHRONIZE CACHE: all of it, whatever the range."""

    def __init__(self, disk: ScsiDisk) -> None:
        self._disk = disk

    async def finish(self) -> None:
        """Flush."""
        await self._disk.flush()


def flush(unit: ScsiDisk, cdb: cdbs.Read10 | sbc.Read16) -> Task:
    """SYNCHRONIZE CACHE (10) and (16). With IMMED it may end before it has; it does not."""
    unit.check_range(cdb.logical_block_address, cdb.transfer_length)
    return Flush(unit)


def prefetch(unit: ScsiDisk, cdb: cdbs.Read10 | sbc.Read16) -> Task:
    """PRE-FETCH (10) and (16): there is no cache of ours to read into."""
    unit.check_range(cdb.logical_block_address, cdb.transfer_length)
    return Action()


def seek(unit: ScsiDisk, cdb: cdbs.Cdb10) -> Task:
    """SEEK (10)."""
    unit.check_range(cdb.logical_block_address, 0)
    return Action()


def miscompare(expected: bytes, found: bytes, before: int) -> CheckCondition:
    """What to say of data that differ; the information is the offset of the first byte that does
    in the data that came (SBC-3 section 5.2), `before` bytes of which were compared already.
    """
    low, high = 0, len(found)  # the first difference lies in here
    while high - low > 1:
        middle = (low + high) // 2
        if expected[low:middle] == found[low:middle]:
            low = middle
        else:
            high = middle
    return CheckCondition(MISCOMPARE._replace(information=before + low))
