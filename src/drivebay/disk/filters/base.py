"""The base of every filter: what it does not override is the inner disk's own bound method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from drivebay.disk.contract import Disk

if TYPE_CHECKING:
    from drivebay.disk.reservations import Reservations

__all__ = ["CONSTANTS", "FORWARDED", "Filter"]

FORWARDED: Final = (
    "read",
    "write",
    "flush",
    "unmap",
    "write_zeroes",
    "extents",
    "resize",
    "refresh",
    "eject",
    "on_resize",
)
"""The methods a filter hands on, as bound methods, so that passing through costs nothing."""

CONSTANTS: Final = (
    "sector_size",
    "physical_sector_size",
    "read_only",
    "volatile_cache",
    "persistent",
    "unmap_behaviour",
    "optimal_unmap_sectors",
    "disk_id",
)
"""What a filter has of the disk below, unless it says otherwise."""


class Filter(Disk):
    """A disk that changes some operations of the disk under it.

    A subclass overrides what it changes, calling ``self.below`` for the rest, and sets the
    attributes that differ after ``super().__init__(below)``.
    """

    kind = "filter"

    def __init__(self, below: Disk) -> None:
        super().__init__()
        self.below = below
        for name in FORWARDED:
            if getattr(type(self), name) is getattr(Disk, name):
                setattr(self, name, getattr(below, name))
        for name in CONSTANTS:
            setattr(self, name, getattr(below, name))

    @property
    def sector_count(self) -> int:  # type: ignore[override]
        """The size of the disk below, as it is now."""
        return self.below.sector_count

    @property
    def reservations(self) -> Reservations | None:
        """The reservations of the disk below."""
        return self.below.reservations

    @property
    def inner(self) -> Sequence[Disk]:
        """The disk below."""
        return (self.below,)

    @property
    def allocated_bytes(self) -> int | None:
        """What the disk below holds."""
        return self.below.allocated_bytes

    def close(self) -> None:
        """Close the disk below."""
        self.below.close()
