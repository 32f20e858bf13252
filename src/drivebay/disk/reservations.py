"""Persistent reservations: an optional capability of a disk (SPC-4 section 5.13, NVMe 2.0 8.19).

A disk that has them gives each host its view, a `Nexus`: what the host asks for is asked there, and
what it may do stands there. The disk does not know who reads and writes, so whoever does I/O for a
host puts `drivebay.disk.filters.guarded.Guarded` between, or looks at `may_read` and `may_write`::

    nexus = disk.reservations.of(host_id, controller_id, told=self.on_notice)
    disk = Guarded(disk, nexus)

Hosts are told apart by `host_id` alone: an NVMe host identifier (8 or 16 bytes; the same host may
come by several controllers), or for SCSI what names the I_T nexus: a TransportID, and the relative
target port as `controller_id`. A target with several ports to one initiator port must tell them
apart in the id.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

__all__ = [
    "NO_CONTROLLER",
    "Nexus",
    "Notice",
    "Registrant",
    "Report",
    "ReservationType",
    "Reservations",
    "Told",
]

NO_CONTROLLER: Final = 0xFFFF
"""The controller of a registrant that is not connected."""


class ReservationType(enum.Enum):
    """Who may do what while the reservation stands."""

    WRITE_EXCLUSIVE = "write exclusive"
    EXCLUSIVE_ACCESS = "exclusive access"
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = "write exclusive, registrants only"
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = "exclusive access, registrants only"
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = "write exclusive, all registrants"
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = "exclusive access, all registrants"

    @property
    def all_registrants(self) -> bool:
        """Every registrant holds the reservation."""
        return self in _ALL_REGISTRANTS

    @property
    def shared(self) -> bool:
        """What its holder may do, every registrant may."""
        return self not in _ONE_HOLDER

    @property
    def exclusive_access(self) -> bool:
        """Others may not even read."""
        return self in _EXCLUSIVE_ACCESS


_ONE_HOLDER: Final = (ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS)
_ALL_REGISTRANTS: Final = (
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
)
_EXCLUSIVE_ACCESS: Final = (
    ReservationType.EXCLUSIVE_ACCESS,
    ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
)


class Notice(enum.Enum):
    """What another host's request did to this one: a SCSI unit attention, an NVMe notification."""

    REGISTRATION_PREEMPTED = "registration preempted"
    """SPC-4: REGISTRATIONS PREEMPTED (2A/05); NVMe log page 80h: 1."""
    RESERVATION_RELEASED = "reservation released"
    """SPC-4: RESERVATIONS RELEASED (2A/04); NVMe log page 80h: 2."""
    RESERVATION_PREEMPTED = "reservation preempted"
    """SPC-4: RESERVATIONS PREEMPTED (2A/03); NVMe log page 80h: 3. The registrations are gone."""
    ABORT = "abort"
    """Preempt and abort: the host's commands under way end now, as by `AbortedByPreempt`. The
    notice of what was preempted follows."""


Told = Callable[[Notice], None]
"""Called on the thread of the host whose request it was, before that request ends."""


@dataclass(frozen=True)
class Registrant:
    """A host that has registered a key; once for each controller by which it is connected."""

    key: int
    host_id: bytes
    controller_id: int
    """`NO_CONTROLLER` if the host is not connected now."""
    holds_reservation: bool


@dataclass(frozen=True)
class Report:
    """The reservation state of a disk."""

    generation: int
    """32 bits, wrapping: how many requests have succeeded but reserve and release."""
    type: ReservationType | None
    persists_through_power_loss: bool
    registrants: tuple[Registrant, ...]


class Nexus(Protocol):
    """One host's view of a disk's reservations, by one controller.

    The requests raise `ReservationConflict` where the standards say so, and `InvalidInput` for what
    is an illegal request (SPC-4) or an invalid field (NVMe). One that raises has changed nothing.
    """

    @property
    def host_id(self) -> bytes:
        """Who."""

    @property
    def controller_id(self) -> int:
        """By which controller, or target port."""

    @property
    def key(self) -> int:
        """The key this host has registered; 0 if it has none."""

    @property
    def may_read(self) -> bool:
        """Whether its reads, and whatever else tells it of the data, are let through now."""

    @property
    def may_write(self) -> bool:
        """Whether its writes, unmaps and flushes are."""

    async def register(self, current: int | None, new: int, persist: bool | None = None) -> None:
        """Register key `new` in place of `current`; 0 as `new` unregisters.

        As `current` a host that is not registered gives 0. None is whatever it is: SCSI's REGISTER
        AND IGNORE EXISTING KEY, NVMe's IEKEY. (NVMe's own rules, that a host cannot register
        another key and that only a registrant can replace or unregister one, look at `key`.)
        With `persist` the whole disk's state outlives a power loss from now on, or does no more.
        """

    async def reserve(self, key: int, kind: ReservationType) -> None:
        """Take the reservation. `key` is here and below the host's own, to prove it."""

    async def release(self, key: int, kind: ReservationType) -> None:
        """Give the reservation up. Nothing happens if this host does not hold it."""

    async def clear(self, key: int) -> None:
        """Drop the reservation and every registration."""

    async def preempt(self, key: int, victim: int, kind: ReservationType, abort: bool) -> None:
        """Unregister whoever has key `victim`, and take the reservation if they held it.

        Of an all-registrants reservation, 0 as `victim` means every other registrant, and takes it.
        """

    def close(self) -> None:
        """The controller is gone, or has another host now. What the host registered stays."""


class Reservations(Protocol):
    """The reservation service of a disk."""

    @property
    def types(self) -> frozenset[ReservationType]:
        """What can be reserved."""

    @property
    def can_persist_through_power_loss(self) -> bool:
        """Whether `persist` can be True."""

    def of(self, host_id: bytes, controller_id: int, told: Told | None = None) -> Nexus:
        """The view of the host `host_id`, connected by `controller_id` until the view is closed.

        `told` hears what other hosts do to it.
        """

    async def report(self) -> Report:
        """The state as it is now."""

    async def persist(self, persist: bool) -> None:
        """The state outlives a power loss from now on, or does no more. Raises `InvalidInput` where
        it cannot.
        """
