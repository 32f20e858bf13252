"""Persistent reservations for a disk that has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.disk.filters import reservation_state as rules
from drivebay.disk.filters.base import Filter
from drivebay.disk.filters.reservation_file import ReservationFile
from drivebay.disk.filters.reservation_state import Change, Rule, State
from drivebay.disk.reservations import (
    NO_CONTROLLER,
    Registrant,
    Report,
    ReservationType,
    Told,
)
from drivebay.suspend import Lock, blocking

__all__ = ["Prwrap"]


class Prwrap(Filter):
    """Gives `below` persistent reservations, which the controllers of this process share.

    With `state_file` they can outlive the process. Reads and writes pass through: a controller
    stands on a `Guarded` of this disk, which knows its host. Raises `DiskOpenError`.
    """

    kind = "prwrap"

    def __init__(self, below: Disk, state_file: str | None = None) -> None:
        super().__init__(below)
        self._file = ReservationFile(state_file) if state_file else None
        self._reservations = _Reservations(self._file)

    @property
    def reservations(self) -> _Reservations:
        """Its own; those of the disk below are not seen."""
        return self._reservations

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Where the reservations are kept."""
        return {"state": self._file.path} if self._file else {}

    def close(self) -> None:
        """Let go of the file, and close the disk below."""
        if self._file:
            self._file.close()
        super().close()


class _Reservations:
    """The service: a state, who is connected, and the file."""

    types: Final = frozenset(ReservationType)

    def __init__(self, file: ReservationFile | None) -> None:
        self._file = file
        self._lock = Lock()
        self.state = file.state if file else State()
        self.nexuses: list[_Nexus] = []

    @property
    def can_persist_through_power_loss(self) -> bool:
        return self._file is not None

    def of(self, host_id: bytes, controller_id: int, told: Told | None = None) -> _Nexus:
        nexus = _Nexus(self, host_id, controller_id, told or (lambda notice: None))
        self.nexuses.append(nexus)
        return nexus

    async def report(self) -> Report:
        state = self.state
        return Report(
            state.generation,
            state.type,
            state.persists,
            tuple(
                Registrant(key, host, controller, state.holds(host))
                for host, key in state.keys.items()
                for controller in self._controllers(host)
            ),
        )

    def _controllers(self, host: bytes) -> list[int]:
        found = {nexus.controller_id for nexus in self.nexuses if nexus.host_id == host}
        return sorted(found) or [NO_CONTROLLER]

    async def persist(self, persist: bool) -> None:
        self.check_persist(persist)
        await self.apply(lambda state: (replace(state, persists=persist), []))

    def check_persist(self, persist: bool | None) -> None:
        if persist and not self._file:
            raise InvalidInput("reservations do not outlive a power loss: there is no state file")

    async def apply(self, rule: Rule) -> None:
        """Change the state by `rule`, once it is stored, and tell whoever is concerned."""
        async with self._lock:
            state, told = rule(self.state)
            if (file := self._file) and (state.persists or self.state.persists):
                await blocking(lambda: file.store(state))
            self.state = state
            nexuses = tuple(self.nexuses)
            for nexus in nexuses:
                nexus.look()
            for host, notice in told:
                for nexus in nexuses:
                    if nexus.host_id == host:
                        nexus.told(notice)


class _Nexus:
    """A host's view. See `drivebay.disk.reservations.Nexus`."""

    def __init__(
        self, service: _Reservations, host_id: bytes, controller_id: int, told: Told
    ) -> None:
        self.host_id, self.controller_id, self.told = host_id, controller_id, told
        self._service = service
        self.look()

    def look(self) -> None:
        """The state has changed."""
        state, host = self._service.state, self.host_id
        self.key = state.keys.get(host, 0)
        self.may_read, self.may_write = state.may_read(host), state.may_write(host)

    async def register(self, current: int | None, new: int, persist: bool | None = None) -> None:
        self._service.check_persist(persist)
        await self._ask(rules.register, current, new, persist)

    async def reserve(self, key: int, kind: ReservationType) -> None:
        await self._ask(rules.reserve, key, kind)

    async def release(self, key: int, kind: ReservationType) -> None:
        await self._ask(rules.release, key, kind)

    async def clear(self, key: int) -> None:
        await self._ask(rules.clear, key)

    async def preempt(self, key: int, victim: int, kind: ReservationType, abort: bool) -> None:
        await self._ask(rules.preempt, key, victim, kind, abort)

    async def _ask(self, rule: Callable[..., Change], *what: Any) -> None:
        await self._service.apply(lambda state: rule(state, self.host_id, *what))

    def close(self) -> None:
        if self in self._service.nexuses:
            self._service.nexuses.remove(self)
