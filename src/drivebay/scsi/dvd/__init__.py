"""The DVD drive (MMC-6): a logical unit over any disk of blocks that make up 2048 bytes."""

from drivebay.scsi.dvd.drive import Dvd, Locked
from drivebay.scsi.dvd.features import PhysicalInterface

__all__ = ["Dvd", "Locked", "PhysicalInterface"]
