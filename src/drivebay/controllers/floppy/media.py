"""What a floppy disk is, by the size of its image, and the drives that take it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from drivebay.controllers.floppy.registers import DataRate
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput

__all__ = ["MEDIA", "SECTOR_SIZE", "DriveType", "Medium", "medium_of"]

SECTOR_SIZE: Final = 512
HEADS: Final = 2


class DriveType(enum.IntEnum):
    """What the drive is, as the CMOS RAM of a PC says it."""

    INCH_5_360K = 1
    INCH_5_1200K = 2
    INCH_3_720K = 3
    INCH_3_1440K = 4
    INCH_3_2880K = 5


@dataclass(frozen=True)
class Medium:
    """A format: two sides of `cylinders` tracks of `sectors`, each of 512 bytes and by MFM.

    `rates` are those at which it can be read, `drive` what it goes into.
    """

    name: str
    cylinders: int
    sectors: int
    rates: tuple[DataRate, ...]
    drive: DriveType

    @property
    def byte_count(self) -> int:
        """The size of its image."""
        return self.cylinders * HEADS * self.sectors * SECTOR_SIZE

    def block(self, cylinder: int, head: int, sector: int) -> int:
        """The number in the image of a sector, which counts from 1 on its track."""
        return (cylinder * HEADS + head) * self.sectors + sector - 1


SLOW: Final = (DataRate.KBPS_250,)
HIGH: Final = (DataRate.KBPS_500,)

MEDIA: Final = (
    Medium("360K", 40, 9, (DataRate.KBPS_250, DataRate.KBPS_300), DriveType.INCH_5_360K),
    Medium("1.2M", 80, 15, HIGH, DriveType.INCH_5_1200K),
    Medium("720K", 80, 9, SLOW, DriveType.INCH_3_720K),
    Medium("1.44M", 80, 18, HIGH, DriveType.INCH_3_1440K),
    Medium("1.68M", 80, 21, HIGH, DriveType.INCH_3_1440K),  # DMF
    Medium("1.84M", 80, 23, HIGH, DriveType.INCH_3_1440K),  # what XDF holds, in plain sectors
    Medium("2.88M", 80, 36, (DataRate.KBPS_1000,), DriveType.INCH_3_2880K),
)
_BY_SIZE: Final = {medium.byte_count: medium for medium in MEDIA}


def medium_of(disk: Disk) -> Medium:
    """The medium whose image `disk` is. Raises `InvalidInput` if there is none of that size."""
    medium = _BY_SIZE.get(disk.byte_count)
    if medium is None or disk.sector_size != SECTOR_SIZE:
        sizes = ", ".join(f"{medium.byte_count} ({medium.name})" for medium in MEDIA)
        raise InvalidInput(f"{disk.byte_count} bytes are no floppy disk: {sizes}")
    return medium
