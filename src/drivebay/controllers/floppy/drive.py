"""A floppy drive: a head that steps, and a disk that comes and goes."""

from __future__ import annotations

from typing import Any, Final

from drivebay.controllers.floppy.media import DriveType, Medium, medium_of
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput

__all__ = ["FloppyDrive"]

BEYOND: Final = 3
"""Cylinders that the head reaches past the last."""


class FloppyDrive:
    """A drive, with `disk` in it or empty. Its `kind` is what the disk wants, or 2.88M.

    A drive of 3.5 inches takes what needs no more than it is; one of 5.25 inches its own format.
    Raises `InvalidInput` for a disk that is no floppy disk.
    """

    def __init__(self, disk: Disk | None = None, kind: DriveType | None = None) -> None:
        if kind is None:
            kind = medium_of(disk).drive if disk is not None else DriveType.INCH_3_2880K
        self.kind = kind
        self.disk: Disk | None = None
        self.medium: Medium | None = None
        self.cylinder = 0
        """Where the head is."""
        self.changed = True
        """DSKCHG: the disk was taken out, and the head has not stepped over one since."""
        self.deleted: set[int] = set()
        """Blocks with a deleted data mark: images have no place for it, it goes with the disk."""
        if disk is not None:
            self.insert(disk)

    def insert(self, disk: Disk) -> None:
        """Put a disk in, in place of the one that is there. Raises `InvalidInput`."""
        medium = medium_of(disk)
        small = self.kind < DriveType.INCH_3_720K
        if medium.drive != self.kind if small else not 3 <= medium.drive <= self.kind:
            raise InvalidInput(f"a disk of {medium.name} does not fit this drive")
        self.eject()
        self.disk, self.medium = disk, medium

    def eject(self) -> Disk | None:
        """Take the disk out; None if there is none."""
        disk, self.disk, self.medium = self.disk, None, None
        self.changed = True
        self.deleted.clear()
        return disk

    @property
    def write_protected(self) -> bool:
        """WP."""
        return self.disk is not None and self.disk.read_only

    @property
    def formatted(self) -> bool:
        """Whether there is a track under the head."""
        return self.medium is not None and self.cylinder < self.medium.cylinders

    def step(self, by: int) -> None:
        """Step `by` cylinders, inwards if it is positive, as far as the head goes."""
        cylinders = 40 if self.kind is DriveType.INCH_5_360K else 80
        before = self.cylinder
        self.cylinder = min(max(before + by, 0), cylinders - 1 + BEYOND)
        if self.cylinder != before and self.disk is not None:
            self.changed = False

    def save(self) -> dict[str, Any]:
        """Its state; not what is on the disk."""
        return {
            "kind": int(self.kind),
            "cylinder": self.cylinder,
            "changed": self.changed,
            "deleted": sorted(self.deleted),
            "medium": None if self.medium is None else self.medium.name,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if another medium is in it."""
        if state["medium"] != (None if self.medium is None else self.medium.name):
            raise ValueError(f"the drive was saved with {state['medium'] or 'no disk'} in it")
        self.kind = DriveType(state["kind"])
        self.cylinder, self.changed = state["cylinder"], state["changed"]
        self.deleted = set(state["deleted"])
