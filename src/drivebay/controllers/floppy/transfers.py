"""The commands that touch the disk, each by what it does with a part (82077AA section 5.1)."""

from __future__ import annotations

from typing import Final

from drivebay.controllers.floppy.drive import FloppyDrive
from drivebay.controllers.floppy.media import SECTOR_SIZE
from drivebay.controllers.floppy.registers import Opcode, Status1, Status2
from drivebay.controllers.floppy.transfer import MOST_SECTORS, N_512, Host, Part, Sectors, Transfer
from drivebay.disk.buffers import ZEROES
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import DiskError
from drivebay.wire import U8, Struct

__all__ = ["TRANSFERS", "SectorId"]

EN, DE, ND = (int(bit) for bit in (Status1.EN, Status1.DE, Status1.ND))
DD, SH, SN = (int(bit) for bit in (Status2.DD, Status2.SH, Status2.SN))


class FormatParameters(Struct, size=5):
    """The parameters of FORMAT TRACK."""

    select: U8
    n: U8
    sc: U8
    gpl: U8
    d: U8


class SectorId(Struct, size=4):
    """What FORMAT TRACK is told of each sector."""

    c: U8
    h: U8
    r: U8
    n: U8


class Read(Sectors):
    """READ DATA."""

    host = Host.TAKES

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Read; of a sector that the host does not want to its end, the rest goes nowhere."""
        assert drive.disk is not None
        rest = part.sectors * SECTOR_SIZE - part.size
        data = [*buffers, memoryview(bytearray(rest))] if rest else buffers
        await drive.disk.read(self.block(drive), data)


class ReadDeleted(Read):
    """READ DELETED DATA."""

    deleted = True


class ReadTrack(Read):
    """READ TRACK: all sectors from the index hole on, whatever their numbers."""

    own = (*Read.own, "at")

    def __init__(self, opcode: int, parameters: bytes) -> None:
        super().__init__(opcode, parameters)
        self.at = 0

    def part(self, drive: FloppyDrive, most: int) -> Part | None:
        """EOT says how many."""
        assert drive.medium is not None
        count = min(self.eot or MOST_SECTORS, drive.medium.sectors) - self.at
        if self.over or not count:
            if not self.over:
                self.fail(ND)
            return None
        count = min(count, most, self.most)
        self.most = MOST_SECTORS
        return Part(count * SECTOR_SIZE, count)

    def block(self, drive: FloppyDrive) -> int:
        """By its place on the track."""
        assert drive.medium is not None
        return drive.medium.block(drive.cylinder, self.side, self.at + 1)

    def bad(self, part: Part, error: DiskError) -> Part | None:
        """It goes on, and tells in the end."""
        self.st1 |= DE
        self.st2 |= DD
        return Part(min(part.size, SECTOR_SIZE), 1)

    def passed(self, drive: FloppyDrive, part: Part, tc: bool) -> None:
        """IDs are compared, and that is all."""
        ours = (self.c, self.h, self.r, self.n)
        if ours != (drive.cylinder, self.side, self.at + 1, N_512):
            self.st1 |= ND
        self.at += part.sectors
        self.r += part.sectors
        self.over = tc or self.at == self.eot


class Write(Sectors):
    """WRITE DATA."""

    host = Host.BRINGS
    writes = True

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Write; the rest of a sector that the host does not fill is zeroes."""
        assert drive.disk is not None
        block, rest = self.block(drive), part.sectors * SECTOR_SIZE - part.size
        data = [*buffers, ZEROES[:rest]] if rest else buffers
        self.dirty = True
        await drive.disk.write(block, data)
        blocks = range(block, block + part.sectors)
        if self.deleted:
            drive.deleted.update(blocks)
        else:
            drive.deleted.difference_update(blocks)


class WriteDeleted(Write):
    """WRITE DELETED DATA."""

    deleted = True


class Verify(Sectors):
    """VERIFY: read, and nothing goes to the host (table 5-7)."""

    def __init__(self, opcode: int, parameters: bytes) -> None:
        super().__init__(opcode, parameters)
        self.counted = self.select.EC
        if self.counted:
            self.left = self.dtl or MOST_SECTORS

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Read."""
        assert drive.disk is not None
        data = memoryview(bytearray(part.sectors * SECTOR_SIZE))
        await drive.disk.read(self.block(drive), [data])

    def exhausted(self) -> None:
        """Where no count says otherwise the end of the cylinder is the end."""
        if self.counted and self.left:
            self.st1 |= EN


class Scan(Sectors):
    """SCAN EQUAL, LOW OR EQUAL, HIGH OR EQUAL: look for a sector that is as the host's data."""

    host = Host.BRINGS
    alone = True
    order = 0
    """What the disk may be beside equal: -1 less, 1 greater."""

    def __init__(self, opcode: int, parameters: bytes) -> None:
        super().__init__(opcode, parameters)
        self.step = 2 if self.dtl == 2 else 1  # here DTL is STP

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Compare."""
        assert drive.disk is not None
        sector = memoryview(bytearray(SECTOR_SIZE))
        await drive.disk.read(self.block(drive), [sector])
        difference = _compared(bytes(sector[: part.size]), b"".join(buffers))
        self.st2 &= ~(SH | SN)
        if not difference:
            self.st2 |= SH
        elif difference != self.order:
            self.st2 |= SN

    def passed(self, drive: FloppyDrive, part: Part, tc: bool) -> None:
        """Go on if that was not it."""
        if part.size and not self.st2 & SN:
            self.st0_side = self.side
            self.over = True
        else:
            super().passed(drive, part, tc)

    def exhausted(self) -> None:
        """Nothing was found, as SN says."""


class ScanLowOrEqual(Scan):
    """The disk's is equal or less."""

    order = -1


class ScanHighOrEqual(Scan):
    """The disk's is equal or greater."""

    order = 1


CARE: Final = bytes([0xFF] * 255 + [0])
"""Which bytes count, by what they are: all but FF, which is equal to everything."""


def _compared(disk: bytes, host: bytes) -> int:
    """-1, 0 or 1: `disk` is less than `host`, equal or greater, but for bytes of FF in either."""
    care = int.from_bytes(disk.translate(CARE)) & int.from_bytes(host.translate(CARE))
    ours: int = int.from_bytes(disk) & care
    theirs: int = int.from_bytes(host) & care
    return (ours > theirs) - (ours < theirs)


class Format(Transfer):
    """FORMAT TRACK: every sector is filled with D.

    The host names the sectors. An image holds those of its geometry and no others, in any order; a
    track that would have others is left as it was.
    """

    host = Host.BRINGS
    writes = True

    def __init__(self, opcode: int, parameters: bytes) -> None:
        super().__init__(opcode, parameters)
        _, self.n, self.sc, _, self.d = FormatParameters.unpack_from(parameters)
        self.r = 1

    @property
    def last_sector(self) -> int:
        """SC."""
        return int(self.sc)

    def part(self, drive: FloppyDrive, most: int) -> Part | None:
        """The whole track."""
        assert drive.medium is not None
        if self.over:
            return None
        if self.n != N_512 or self.sc != drive.medium.sectors:
            self.fail(ND)
            return None
        return Part(self.sc * SectorId.size, self.sc)

    def fit(self, part: Part, size: int) -> Part | None:
        """All IDs, or none."""
        return part if size == part.size else None

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Write it."""
        assert drive.disk is not None
        ids = sorted(SectorId.layout.iter_unpack(b"".join(buffers)))
        here = drive.cylinder, self.side
        if ids != [(*here, r, N_512) for r in range(1, part.sectors + 1)]:
            self.fail(ND)
            return
        self.c, self.h = here
        self.dirty = True
        block = self.block(drive)
        data = memoryview(bytes((self.d,)) * (part.sectors * SECTOR_SIZE))
        await drive.disk.write(block, [data])
        drive.deleted.difference_update(range(block, block + part.sectors))

    def passed(self, drive: FloppyDrive, part: Part, tc: bool) -> None:
        """The index hole has come round."""
        self.over = True


TRANSFERS: Final[dict[int, type[Transfer]]] = {
    Opcode.READ_TRACK: ReadTrack,
    Opcode.WRITE_DATA: Write,
    Opcode.READ_DATA: Read,
    Opcode.WRITE_DELETED_DATA: WriteDeleted,
    Opcode.READ_DELETED_DATA: ReadDeleted,
    Opcode.FORMAT_TRACK: Format,
    Opcode.SCAN_EQUAL: Scan,
    Opcode.VERIFY: Verify,
    Opcode.SCAN_LOW_OR_EQUAL: ScanLowOrEqual,
    Opcode.SCAN_HIGH_OR_EQUAL: ScanHighOrEqual,
}
