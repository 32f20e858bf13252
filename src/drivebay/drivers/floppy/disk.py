"""A disk in a drive, by the numbers of its blocks."""

from __future__ import annotations

from typing import Final

from drivebay.controllers.floppy.media import HEADS, SECTOR_SIZE, Medium
from drivebay.controllers.floppy.registers import Opcode, Status0
from drivebay.controllers.floppy.transfer import N_512, Modifiers
from drivebay.controllers.floppy.transfers import SectorId
from drivebay.drivers.floppy.controller import FloppyDriver, Result, Via
from drivebay.drivers.floppy.errors import FloppyError

__all__ = ["FloppyDisk"]

MT, MFM = int(Modifiers.MT), int(Modifiers.MFM)
GAP, FORMAT_GAP, NO_DTL = 0x1B, 0x6C, 0xFF
FILL: Final = 0xF6


class FloppyDisk:
    """A disk of the format `medium` in drive `unit`: its motor is on, and its head at track 0.

    Reads and writes go a cylinder at a time by DMA, a track at a time by the FIFO. Every method
    raises `FloppyError`.
    """

    def __init__(self, driver: FloppyDriver, unit: int, medium: Medium, via: Via = Via.DMA) -> None:
        self.driver, self.unit, self.medium, self.via = driver, unit, medium, via
        driver.motor(unit, medium.rates[0])
        self.recalibrate()
        if driver.disk_changed():  # a step says that the change was seen
            self.seek(1)
            if driver.disk_changed():
                raise FloppyError("no disk in the drive")
            self.recalibrate()

    # -- the head --------------------------------------------------------------------------------

    def recalibrate(self) -> None:
        """To track 0; a second time if the head was further than 79 steps in."""
        for _ in range(2):
            status, _ = self.driver.seek(Opcode.RECALIBRATE, self.unit)
            if not status & Status0.EC:
                return
        raise FloppyError("no track 0", status)

    def seek(self, cylinder: int, head: int = 0) -> None:
        """To a cylinder."""
        status, present = self.driver.seek(Opcode.SEEK, self.unit | head << 2, cylinder)
        if present != cylinder or not status & Status0.SE:
            raise FloppyError(f"seek to {cylinder} ends at {present}", status)

    def read_id(self, head: int = 0) -> Result:
        """The ID that comes by."""
        result, _ = self.driver.transfer(Opcode.READ_ID | MFM, self.unit | head << 2)
        return result

    # -- sectors ---------------------------------------------------------------------------------

    def read(self, block: int, count: int, opcode: int = Opcode.READ_DATA) -> bytes:
        """`count` sectors from `block` on."""
        parts = []
        while count:
            cylinder, head, sector, some = self._piece(block, count)
            size = some * SECTOR_SIZE
            parts.append(self.at(cylinder, head, sector, some, opcode, size=size)[1])
            block, count = block + some, count - some
        return b"".join(parts)

    def write(self, block: int, data: bytes, opcode: int = Opcode.WRITE_DATA) -> None:
        """Whole sectors, from `block` on."""
        at = 0
        while at < len(data):
            left = (len(data) - at) // SECTOR_SIZE
            cylinder, head, sector, some = self._piece(block, left)
            piece = data[at : at + some * SECTOR_SIZE]
            self.at(cylinder, head, sector, some, opcode, data=piece)
            block, at = block + some, at + len(piece)

    def _piece(self, block: int, count: int) -> tuple[int, int, int, int]:
        """Cylinder, head and sector of `block`, and how many may go at once."""
        track, sector = divmod(block, self.medium.sectors)
        cylinder, head = divmod(track, HEADS)
        sides = HEADS - head if self.via is Via.DMA else 1
        return cylinder, head, sector + 1, min(count, sides * self.medium.sectors - sector)

    def at(
        self,
        cylinder: int,
        head: int,
        sector: int,
        count: int,
        opcode: int,
        data: bytes = b"",
        size: int = 0,
    ) -> tuple[Result, bytes]:
        """One command for `count` sectors in a row."""
        self.driver.use(self.via)
        self.seek(cylinder, head)
        last, sides = self.medium.sectors, MT
        if self.via is Via.PIO:
            last, sides = sector + count - 1, 0
        parameters = (cylinder, head, sector, N_512, last, GAP, NO_DTL)
        return self.driver.transfer(
            opcode | sides | MFM, self.unit | head << 2, *parameters, data=data, size=size
        )

    def format(self, fill: int = FILL) -> None:
        """FORMAT TRACK on every track."""
        self.driver.use(self.via)
        sectors = self.medium.sectors
        for cylinder in range(self.medium.cylinders):
            for head in range(HEADS):
                self.seek(cylinder, head)
                ids = [SectorId(cylinder, head, r, N_512).pack() for r in range(1, sectors + 1)]
                self.driver.transfer(
                    Opcode.FORMAT_TRACK | MFM,
                    *(self.unit | head << 2, N_512, sectors, FORMAT_GAP, fill),
                    data=b"".join(ids),
                )
