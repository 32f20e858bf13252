"""More than one who looks on at the same commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivebay.platform.observer import Observed, Tap

__all__ = ["Taps", "tap_into"]


class Taps:
    """Tells `taps` what it is told, in their order."""

    __slots__ = ("taps",)

    def __init__(self, *taps: Tap) -> None:
        self.taps = taps

    def began(self, queue: int, tag: int, command: Any) -> None:
        """A command was taken from the guest."""
        for tap in self.taps:
            tap.began(queue, tag, command)

    def ended(self, queue: int, tag: int, outcome: Any) -> None:
        """The guest is told how it ended."""
        for tap in self.taps:
            tap.ended(queue, tag, outcome)


def tap_into(observed: Observed, tap: Tap) -> Callable[[], None]:
    """Have `tap` see the commands of `observed`, beside whoever does; returns what ends that."""
    observed.tap = _one_of(*_taps_of(observed), tap)

    def end() -> None:
        observed.tap = _one_of(*(each for each in _taps_of(observed) if each is not tap))

    return end


def _taps_of(observed: Observed) -> tuple[Tap, ...]:
    if isinstance(observed.tap, Taps):
        return observed.tap.taps
    return () if observed.tap is None else (observed.tap,)


def _one_of(*taps: Tap) -> Tap | None:
    if len(taps) > 1:
        return Taps(*taps)
    return taps[0] if taps else None
