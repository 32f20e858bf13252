"""Floppy: an 82077AA, its drives, and the media that go into them."""

from drivebay.controllers.floppy.controller import FloppyController
from drivebay.controllers.floppy.drive import FloppyDrive
from drivebay.controllers.floppy.media import MEDIA, DriveType, Medium, medium_of
from drivebay.controllers.floppy.ports import map_floppy

__all__ = [
    "MEDIA",
    "DriveType",
    "FloppyController",
    "FloppyDrive",
    "Medium",
    "map_floppy",
    "medium_of",
]
