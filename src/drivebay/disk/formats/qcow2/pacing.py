"""Who may touch which clusters when: operations side by side on one image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivebay.suspend import Promise

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Claims", "Epoch"]


class Epoch:
    """Operations that began while the tables were as they were; and what the tables of then used
    and those of now do not, which is free when the last of these operations has ended.
    """

    __slots__ = ("active", "freed")

    def __init__(self) -> None:
        self.active = 0
        self.freed: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        self.active += 1

    def __exit__(self, *exception: object) -> None:
        self.active -= 1


class Claims:
    """``async with claims.of(first, last):`` nobody else changes the place of these clusters."""

    def __init__(self) -> None:
        self._held: list[_Claim] = []

    def of(self, first: int, last: int) -> _Claim:
        """A claim on guest clusters `first` to `last`."""
        return _Claim(self._held, first, last)


class _Claim:
    def __init__(self, held: list[_Claim], first: int, last: int) -> None:
        self._held, self._first, self._last = held, first, last
        self._waiting: list[Promise[None]] = []

    async def __aenter__(self) -> None:
        while other := self._rival():
            turn = Promise[None]()
            other._waiting.append(turn)
            await turn
        self._held.append(self)

    def _rival(self) -> _Claim | None:
        for other in self._held:
            if other._first <= self._last and self._first <= other._last:
                return other
        return None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.remove(self)
        for turn in self._waiting:
            turn.give(None)
