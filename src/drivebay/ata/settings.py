"""What SET FEATURES and its kin change in a disk, and what a reset brings back."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any, Self

from drivebay.ata.command import Aborted
from drivebay.ata.registers import TransferMode

__all__ = ["Power", "Settings", "transfer_mode"]


class Power(enum.IntEnum):
    """Power modes, as CHECK POWER MODE tells them (ACS-3 section 7.3)."""

    STANDBY = 0x00
    IDLE = 0x80
    ACTIVE = 0xFF
    SLEEP = 0x100  # tells nothing: only a reset wakes it


@dataclass
class Settings:
    """A disk's settings."""

    write_cache: bool
    heads: int
    sectors_per_track: int
    multiple: int = 0
    look_ahead: bool = True
    apm: int = 0  # 0: off
    multiword_dma: int | None = None  # the selected mode, of one of the two kinds
    ultra_dma: int | None = 5
    keep: bool = False  # software resets change nothing (SET FEATURES 66h)
    power: int = Power.ACTIVE
    max_sectors: int | None = None  # SET MAX ADDRESS
    max_volatile: bool = True

    def save(self) -> dict[str, Any]:
        """The settings by name."""
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """The settings that `save` gave."""
        return cls(**state)


def transfer_mode(count: int) -> dict[str, Any]:
    """The settings that SET TRANSFER MODE changes. Raises `Aborted` for a mode we have not."""
    kind, mode = count >> 3, count & 7
    if kind == TransferMode.ULTRA_DMA and mode <= 5:
        return {"ultra_dma": mode, "multiword_dma": None}
    if kind == TransferMode.MULTIWORD_DMA and mode <= 2:
        return {"multiword_dma": mode, "ultra_dma": None}
    if (kind == TransferMode.PIO and mode <= 4) or (kind == TransferMode.PIO_DEFAULT and mode <= 1):
        return {}
    raise Aborted(why=f"no transfer mode {count:#04x}")
