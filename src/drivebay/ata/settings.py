"""What SET FEATURES and its kin change in a disk, and what a reset brings back."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import Any, Self

__all__ = ["Power", "Settings"]


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
