"""IDENTIFY data as a person reads it."""

from __future__ import annotations

from typing import Final

from drivebay.ata.geometry import Geometry
from drivebay.ata.identify import (
    CommandSet1,
    CommandSet2,
    CommandSet3,
    IdentifyData,
    PhysicalSector,
)

__all__ = ["Identity"]

VALID: Final = 0x0100
SIGNATURE: Final = 0xA5


class Identity:
    """The 512 bytes of IDENTIFY (PACKET) DEVICE, `raw`, and what they say (ACS-3 section 7.12).

    Raises `ValueError` if they have a checksum that is wrong.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.words = IdentifyData.unpack(raw)
        if raw[510] == SIGNATURE and sum(raw) & 0xFF:
            raise ValueError("the integrity word is wrong")

    @property
    def model(self) -> str:
        """Model number."""
        return _text(self.words.model_number)

    @property
    def serial(self) -> str:
        """Serial number."""
        return _text(self.words.serial_number)

    @property
    def firmware(self) -> str:
        """Firmware revision."""
        return _text(self.words.firmware_revision)

    @property
    def lba48(self) -> bool:
        """Whether the 48-bit commands are there."""
        return CommandSet2(self.words.commands_2).LBA48

    @property
    def sectors(self) -> int:
        """Sectors that can be addressed."""
        return self.words.lba48_sectors if self.lba48 else self.words.lba28_sectors

    @property
    def sector_size(self) -> int:
        """Bytes of a logical sector."""
        long = PhysicalSector(self.words.physical_sector).LONG
        return 2 * self.words.logical_sector_words if long else 512

    @property
    def physical_sector_size(self) -> int:
        """Bytes of a physical sector."""
        return self.sector_size << PhysicalSector(self.words.physical_sector).EXPONENT

    @property
    def native_geometry(self) -> Geometry:
        """The geometry after power-on."""
        words = self.words
        return Geometry(words.cylinders, words.heads, words.sectors_per_track)

    @property
    def geometry(self) -> Geometry:
        """The geometry that CHS addresses are taken in."""
        words = self.words
        return Geometry(words.current_cylinders, words.current_heads, words.current_sectors)

    @property
    def write_cache(self) -> bool | None:
        """Whether the write cache is on; None if there is none."""
        if not CommandSet1(self.words.commands_1).WRITE_CACHE:
            return None
        return CommandSet1(self.words.enabled_1).WRITE_CACHE

    @property
    def fua(self) -> bool:
        """Whether WRITE DMA FUA EXT is there."""
        return CommandSet3(self.words.commands_3).FUA

    @property
    def trims(self) -> bool:
        """Whether DATA SET MANAGEMENT has TRIM."""
        return bool(self.words.data_set_management & 1)

    @property
    def smart(self) -> bool:
        """Whether SMART is enabled."""
        return CommandSet1(self.words.enabled_1).SMART

    @property
    def max_multiple(self) -> int:
        """The most sectors in a DRQ block of the MULTIPLE commands."""
        return self.words.max_multiple & 0xFF

    @property
    def multiple(self) -> int:
        """The sectors that SET MULTIPLE MODE has chosen, or 0."""
        chosen = self.words.current_multiple
        return chosen & 0xFF if chosen & VALID else 0

    @property
    def ultra_dma(self) -> int | None:
        """The selected Ultra DMA mode."""
        selected = self.words.ultra_dma >> 8
        return selected.bit_length() - 1 if selected else None


def _text(swapped: bytes) -> str:
    """An ATA string: each word's first character is in its upper byte."""
    plain = bytearray(len(swapped))
    plain[0::2], plain[1::2] = swapped[1::2], swapped[0::2]
    return plain.decode("ascii").strip()
