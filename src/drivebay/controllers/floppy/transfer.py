"""A command that touches the disk (82077AA section 5.1): which sectors, and how it ends.

A transfer goes in parts, each of some sectors in a row. `part` finds the next, `act` does it on the
disk, `passed` says that the host has had it; the controller moves the host's data in between.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar, Final, NamedTuple

from drivebay.controllers.floppy.drive import FloppyDrive
from drivebay.controllers.floppy.media import SECTOR_SIZE
from drivebay.controllers.floppy.registers import Status1, Status2
from drivebay.disk.contract import Buffers
from drivebay.disk.errors import DiskError, IllegalBlock, MediumError, ReadOnly
from drivebay.wire import U8, Bit, Bits, Register8, Struct

__all__ = [
    "MOST_SECTORS",
    "N_512",
    "Host",
    "Modifiers",
    "Part",
    "Sectors",
    "Select",
    "Transfer",
]

EN, DE, ND, NW, MA = (
    int(bit) for bit in (Status1.EN, Status1.DE, Status1.ND, Status1.NW, Status1.MA)
)
CM, DD, WC = (int(bit) for bit in (Status2.CM, Status2.DD, Status2.WC))
N_512: Final = 2
"""N of a sector of 512 bytes."""
MOST_SECTORS: Final = 256
"""More than a cylinder has."""


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
        self.left = MOST_SECTORS
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
