"""The commands that touch the disk (82077AA section 5.1): which sectors, and how they end.

A transfer goes in parts, each of some sectors in a row. `part` finds the next, `act` does it on the
disk, `passed` says that the host has had it; the controller moves the host's data in between.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Final, NamedTuple

from drivebay.controllers.floppy.drive import FloppyDrive
from drivebay.controllers.floppy.media import SECTOR_SIZE
from drivebay.controllers.floppy.registers import Opcode, Status1, Status2
from drivebay.disk.buffers import ZEROES
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import DiskError, IllegalBlock, MediumError, ReadOnly
from drivebay.wire import U8, Bit, Bits, Register8, Struct

__all__ = ["N_512", "TRANSFERS", "Host", "Part", "Select", "Transfer"]

EN, DE, ND, NW, MA = (
    int(bit) for bit in (Status1.EN, Status1.DE, Status1.ND, Status1.NW, Status1.MA)
)
CM, DD, WC, SH, SN = (
    int(bit) for bit in (Status2.CM, Status2.DD, Status2.WC, Status2.SH, Status2.SN)
)
N_512: Final = 2
"""N of a sector of 512 bytes."""
MOST_SECTORS: Final = 256


class Host(enum.Enum):
    """What the host does with the data."""

    TAKES = "takes"
    BRINGS = "brings"
    WAITS = "waits"


class Part(NamedTuple):
    """What is done at once: some sectors, for which `size` bytes go to or come from the host."""

    size: int
    sectors: int


class Modifiers(Register8):
    """The upper bits of an opcode."""

    MT = Bit(7)  # both sides of the cylinder
    MFM = Bit(6)
    SK = Bit(5)  # sectors with the other data mark are skipped


class Select(Register8):
    """The first parameter."""

    EC = Bit(7)  # VERIFY: a count ends it
    HDS = Bit(2)
    DS = Bits(1, 0)


class SectorParameters(Struct, size=8):
    """The parameters of all but FORMAT TRACK."""

    select: U8
    c: U8
    h: U8
    r: U8
    n: U8
    eot: U8
    gpl: U8
    dtl: U8


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


class Transfer:
    """A command on the disk. It is over when `part` gives None; `st1` and `st2` say how it went."""

    host = Host.WAITS
    writes = False
    alone = False
    """One sector at a time."""

    def __init__(self, opcode: int, parameters: bytes) -> None:
        self.opcode, self.parameters = opcode, parameters
        modifiers = Modifiers(opcode)
        self.mt, self.mfm, self.sk = modifiers.MT, modifiers.MFM, modifiers.SK
        self.select = Select(parameters[0])
        self.side = int(self.select.HDS)
        self.st0_side = self.side
        """The side of the last sector."""
        self.c = self.h = self.r = self.n = 0
        self.st1 = self.st2 = 0
        self.over = False
        self.dirty = False
        """It has written: as no command flushes, it ends with a flush."""
        self.most = MOST_SECTORS
        """Sectors of the next part, at most: the one after them is bad."""

    @property
    def unit(self) -> int:
        """The drive."""
        return self.select.DS

    @property
    def cylinder(self) -> int | None:
        """Where an implied seek goes."""
        return None

    @property
    def last_sector(self) -> int:
        """What DUMPREG will tell: EOT or SC."""
        return self.parameters[5]

    @property
    def result(self) -> bytes:
        """C, H, R and N of the result."""
        return bytes((self.c & 0xFF, self.h, self.r & 0xFF, self.n))

    def fail(self, st1: int, st2: int = 0) -> None:
        """It has ended, and these are why."""
        self.st1 |= st1
        self.st2 |= st2
        self.over = True

    def begin(self, drive: FloppyDrive, marks: bool) -> None:
        """Look whether anything is there at all; `marks` says whether address marks are found."""
        if not marks or not drive.formatted:
            self.fail(MA)
        elif self.writes and drive.write_protected:
            self.fail(NW)

    def part(self, drive: FloppyDrive, most: int) -> Part | None:
        """What comes next, of `most` sectors at most."""
        raise NotImplementedError

    def fit(self, part: Part, size: int) -> Part | None:
        """`part` if the host has `size` bytes for it and then no more; None if that is too few."""
        return Part(size, -(-size // SECTOR_SIZE))

    async def act(self, drive: FloppyDrive, part: Part, buffers: Buffers) -> None:
        """Do it on the disk. Raises `DiskError`."""
        raise NotImplementedError

    def refused(self, drive: FloppyDrive, part: Part, error: DiskError) -> Part | None:
        """The disk has: None if the command goes on without this part, or is over; else the part
        that counts as done all the same.
        """
        block = self.block(drive)
        if isinstance(error, MediumError) and error.sector is not None:
            good = error.sector - block
            if 0 < good < part.sectors:
                self.most = good
                return None
        return self.bad(part, error)

    def bad(self, part: Part, error: DiskError) -> Part | None:
        """The first sector of `part` cannot be had."""
        self.lost(error)
        return None

    def lost(self, error: DiskError) -> None:
        """It has failed by `error`."""
        if isinstance(error, ReadOnly):
            self.fail(NW)
        elif isinstance(error, IllegalBlock):
            self.fail(ND)
        else:
            self.fail(DE, DD)

    def block(self, drive: FloppyDrive) -> int:
        """The block of the sector that comes next."""
        assert drive.medium is not None
        return drive.medium.block(drive.cylinder, self.side, self.r)

    def passed(self, drive: FloppyDrive, part: Part, tc: bool) -> None:
        """The part is done; `tc` says that the host wants no more."""
        raise NotImplementedError

    def save(self) -> dict[str, Any]:
        """How far it is."""
        kept = ("side", "st0_side", "c", "h", "r", "n", "st1", "st2", "over", "dirty", "most")
        return {name: getattr(self, name) for name in (*kept, *self.own)}

    own: ClassVar[tuple[str, ...]] = ()
    """What a subclass keeps beside that."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        for name, value in state.items():
            setattr(self, name, value)


class Sectors(Transfer):
    """Sectors by their IDs, from R to EOT, with MT on both sides."""

    deleted = False
    """Which data mark it looks for, or writes."""
    step = 1
    own: ClassVar[tuple[str, ...]] = ("left", "stop")

    def __init__(self, opcode: int, parameters: bytes) -> None:
        super().__init__(opcode, parameters)
        _, self.c, self.h, self.r, self.n, self.eot, _, self.dtl = SectorParameters.unpack_from(
            parameters
        )
        self.left = MOST_SECTORS * 2  # more than a cylinder has
        self.stop = False  # a sector with the other mark is the last

    @property
    def cylinder(self) -> int | None:
        """C."""
        return self.c

    def part(self, drive: FloppyDrive, most: int) -> Part | None:
        """The sectors up to EOT that are there, and have the mark."""
        while not self.over:
            if not self._found(drive):
                return None
            assert drive.medium is not None
            last = min(self.eot if self.r <= self.eot else MOST_SECTORS, drive.medium.sectors)
            count = min(last - self.r + 1, self.left)
            if not self.writes and (drive.deleted or self.deleted):
                count, wanted = self._alike(drive, count)
                if not wanted:
                    self.st2 |= CM
                    if self.sk:
                        self.passed(drive, Part(0, count), False)
                        continue
                    self.stop, count = True, 1
            count = min(count, most, self.most)
            self.most = MOST_SECTORS
            return Part(count * SECTOR_SIZE, count)
        return None

    def _found(self, drive: FloppyDrive) -> bool:
        """Whether there is a sector with the ID that is looked for."""
        assert drive.medium is not None
        if self.c != drive.cylinder:
            self.fail(ND, WC)
        elif self.h != self.side or self.n != N_512 or not 1 <= self.r <= drive.medium.sectors:
            self.fail(ND)
        return not self.over

    def _alike(self, drive: FloppyDrive, count: int) -> tuple[int, bool]:
        """How many of `count` sectors have the same mark, and whether it is ours."""
        block = self.block(drive)
        first = block in drive.deleted
        for at in range(1, count):
            if (block + at in drive.deleted) != first:
                return at, first == self.deleted
        return count, first == self.deleted

    def passed(self, drive: FloppyDrive, part: Part, tc: bool) -> None:
        """Go on to the ID that comes next (table 5-6)."""
        self.st0_side = self.side
        self.left -= part.sectors
        if self.stop and part.size:  # the address is not incremented (table 5-4)
            self.over = True
            return
        last = self.r + part.sectors - 1
        if last != self.eot:
            self.r = last + self.step
        elif self.mt and self.side == 0:
            self.side = 1
            self.h ^= 1
            self.r = 1
        else:
            self.c += 1
            self.h ^= self.mt
            self.r = 1
            self.over = True
            if not tc:
                self.exhausted()
        self.over |= tc or not self.left

    def exhausted(self) -> None:
        """The cylinder has ended, and nobody said TC."""
        self.st1 |= EN


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
