"""Cylinders, heads and sectors: the default translation, and addresses in the current one."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CHS_LIMIT", "Geometry", "default_geometry"]

CHS_LIMIT: Final = 16383 * 16 * 63
"""Sectors from which on a drive shows the largest geometry (ATA/ATAPI-6 annex B)."""


class Geometry(NamedTuple):
    """A logical geometry. Sectors count from 1, the others from 0."""

    cylinders: int
    heads: int
    sectors: int

    @property
    def capacity(self) -> int:
        """Sectors that have a cylinder, head and sector."""
        return self.cylinders * self.heads * self.sectors

    def lba(self, cylinder: int, head: int, sector: int) -> int | None:
        """The sector's number, or None outside the geometry."""
        if cylinder >= self.cylinders or head >= self.heads or not 1 <= sector <= self.sectors:
            return None
        return (cylinder * self.heads + head) * self.sectors + sector - 1

    def chs(self, lba: int) -> tuple[int, int, int]:
        """Cylinder, head and sector of `lba`."""
        track, sector = divmod(lba, self.sectors)
        cylinder, head = divmod(track, self.heads)
        return cylinder, head, sector + 1


def default_geometry(sector_count: int) -> Geometry:
    """What a drive of this size says of itself: the algorithm that VHD files use, so that an image
    keeps its geometry wherever it goes (VHD specification, CHS calculation).
    """
    if sector_count >= CHS_LIMIT:
        return Geometry(16383, 16, 63)
    sectors = 17
    tracks = sector_count // sectors
    heads = max(4, -(-tracks // 1024))
    if tracks >= heads * 1024 or heads > 16:
        sectors, heads = 31, 16
        tracks = sector_count // sectors
    if tracks >= heads * 1024:
        sectors, heads = 63, 16
        tracks = sector_count // sectors
    return Geometry(max(1, min(tracks // heads, 16383)), heads, sectors)
