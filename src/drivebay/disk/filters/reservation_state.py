"""The rules of persistent reservations (SPC-4 section 5.13, NVMe 2.0 section 8.19).

A `State` is never changed: a request makes another of it, and says who is told what. So a request
that cannot be granted, or not be stored, has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from drivebay.disk.errors import InvalidInput, ReservationConflict
from drivebay.disk.reservations import Notice, ReservationType

__all__ = [
    "MOST_REGISTRANTS",
    "Change",
    "Rule",
    "State",
    "clear",
    "preempt",
    "register",
    "release",
    "reserve",
]

MOST_REGISTRANTS: Final = 256
"""A guest may give itself any host identifier, and register with each."""


@dataclass(frozen=True, slots=True)
class State:
    """Who has registered which key, and who has reserved what."""

    keys: Mapping[bytes, int] = field(default_factory=dict)
    """By host identifier, in the order they were registered."""
    type: ReservationType | None = None
    holder: bytes | None = None
    """None without a reservation, and where all registrants hold it."""
    persists: bool = False
    generation: int = 0

    def holds(self, host: bytes) -> bool:
        """Whether `host` holds the reservation."""
        if self.type is not None and self.type.all_registrants:
            return host in self.keys
        return host == self.holder

    def may_write(self, host: bytes) -> bool:
        """Whether `host` may change the data."""
        if self.type is None:
            return True
        return host in self.keys if self.type.shared else host == self.holder

    def may_read(self, host: bytes) -> bool:
        """Whether `host` may see it."""
        return self.type is None or not self.type.exclusive_access or self.may_write(host)


Told: TypeAlias = list[tuple[bytes, Notice]]
Change: TypeAlias = tuple[State, Told]
Rule: TypeAlias = Callable[[State], Change]


def register(
    state: State, host: bytes, current: int | None, new: int, persist: bool | None
) -> Change:
    """Replace the key of `host`, or unregister it: sections 5.13.7 and 5.13.11.2.3."""
    key = state.keys.get(host, 0)
    if current is not None and current != key:
        raise ReservationConflict("the host has registered another key")
    if new and not key and len(state.keys) == MOST_REGISTRANTS:
        raise InvalidInput(f"{MOST_REGISTRANTS} hosts have registered keys already")
    changed = replace(_next(state), persists=state.persists if persist is None else persist)
    if new:
        return replace(changed, keys={**state.keys, host: new}), []
    return _unregister(changed, [host])


def reserve(state: State, host: bytes, key: int, kind: ReservationType) -> Change:
    """Take the reservation: section 5.13.9."""
    _prove(state, host, key)
    if state.type is None:
        return _taken(state, host, kind), []
    if state.type is kind and state.holds(host):
        return state, []
    raise ReservationConflict("the disk is reserved")


def release(state: State, host: bytes, key: int, kind: ReservationType) -> Change:
    """Give the reservation up: section 5.13.11.2.2."""
    _prove(state, host, key)
    if not state.holds(host):
        return state, []
    if state.type is not kind:
        raise InvalidInput("release of a reservation of another type")
    return _released(state, host)


def clear(state: State, host: bytes, key: int) -> Change:
    """Drop everything: section 5.13.11.2.8."""
    _prove(state, host, key)
    others = (other for other in state.keys if other != host)
    cleared = replace(_next(state), keys={}, type=None, holder=None)
    return cleared, _tell(others, Notice.RESERVATION_PREEMPTED)


def preempt(
    state: State, host: bytes, key: int, victim: int, kind: ReservationType, abort: bool
) -> Change:
    """Unregister who has key `victim`, and take their reservation: 5.13.11.2.4 to 5.13.11.2.7."""
    _prove(state, host, key)
    if state.type is not None and victim == (state.keys[state.holder] if state.holder else 0):
        gone = [other for other, its in state.keys.items() if other != host and victim in (0, its)]
        left = {other: its for other, its in state.keys.items() if other not in gone}
        changed = _taken(replace(_next(state), keys=left), host, kind)
        told: Told = []
        if kind is not state.type:
            told = _tell((other for other in left if other != host), Notice.RESERVATION_RELEASED)
    else:
        if not victim:
            raise InvalidInput("preempt of all registrants, who hold no reservation")
        gone = [other for other, its in state.keys.items() if its == victim]
        if not gone:
            raise ReservationConflict("no host has registered the key to preempt")
        changed, told = _unregister(_next(state), gone)
    victims = [other for other in gone if other != host]
    aborted = _tell(victims, Notice.ABORT) if abort else []
    return changed, [*aborted, *_tell(victims, Notice.REGISTRATION_PREEMPTED), *told]


def _next(state: State) -> State:
    return replace(state, generation=(state.generation + 1) & 0xFFFFFFFF)


def _prove(state: State, host: bytes, key: int) -> None:
    if state.keys.get(host) != key:
        raise ReservationConflict("the host has not registered this key")


def _tell(hosts: Iterable[bytes], notice: Notice) -> Told:
    return [(host, notice) for host in hosts]


def _taken(state: State, host: bytes, kind: ReservationType) -> State:
    return replace(state, type=kind, holder=None if kind.all_registrants else host)


def _released(state: State, host: bytes | None) -> Change:
    """Without the reservation. Who could do no less while it stood is not told (5.13.11.2.2)."""
    others = [other for other in state.keys if other != host]
    shared = state.type is not None and state.type.shared
    told = _tell(others, Notice.RESERVATION_RELEASED) if shared else []
    return replace(state, type=None, holder=None), told


def _unregister(state: State, hosts: list[bytes]) -> Change:
    """Without the keys of `hosts`, and without the reservation if nobody holds it any more."""
    left = replace(state, keys={host: key for host, key in state.keys.items() if host not in hosts})
    orphaned = not left.keys if state.holder is None else state.holder not in left.keys
    return _released(left, None) if orphaned else (left, [])
