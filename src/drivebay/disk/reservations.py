"""Persistent reservations: an optional capability of a disk (SPC-4 section 5.13, NVMe 2.0 8.19)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Registrant", "Report", "ReservationType", "Reservations"]


class ReservationType(enum.Enum):
    """Who may do what while the reservation stands."""

    WRITE_EXCLUSIVE = "write exclusive"
    EXCLUSIVE_ACCESS = "exclusive access"
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = "write exclusive, registrants only"
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = "exclusive access, registrants only"
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = "write exclusive, all registrants"
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = "exclusive access, all registrants"


@dataclass(frozen=True)
class Registrant:
    """A host that has registered a key."""

    key: int
    host_id: bytes
    controller_id: int
    holds_reservation: bool


@dataclass(frozen=True)
class Report:
    """The reservation state of a disk."""

    generation: int
    type: ReservationType | None
    persists_through_power_loss: bool
    registrants: tuple[Registrant, ...]


class Reservations(Protocol):
    """The reservation service of a disk. Methods raise `ReservationConflict` where it applies."""

    types: frozenset[ReservationType]
    can_persist_through_power_loss: bool

    async def report(self) -> Report:
        """The state as it is now."""

    async def register(self, current: int | None, new: int, persist: bool | None = None) -> None:
        """Replace key `current` (None: whatever it is) by `new`; 0 unregisters."""

    async def reserve(self, key: int, kind: ReservationType) -> None:
        """Take the reservation."""

    async def release(self, key: int, kind: ReservationType) -> None:
        """Give the reservation up."""

    async def clear(self, key: int) -> None:
        """Drop the reservation and every registration."""

    async def preempt(self, key: int, victim: int, kind: ReservationType, abort: bool) -> None:
        """Take the reservation from `victim`, aborting its commands with `abort`."""
