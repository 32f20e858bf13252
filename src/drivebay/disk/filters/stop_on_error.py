"""A disk whose failures somebody may look into before the guest hears of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from drivebay.disk.contract import Buffers, Disk, Operation
from drivebay.disk.errors import IoError, MediumError
from drivebay.disk.filters.base import Filter
from drivebay.suspend import Promise

__all__ = ["Failed", "StopOnError"]

Failed: TypeAlias = Callable[[str, IoError | MediumError], bool]
"""Told the operation that failed and why: whether it shall wait for `resume`."""


class StopOnError(Filter):
    """Asks `failed` when an operation on `below` fails; it may hold the operation, to try again::

        disk = StopOnError(FileDisk("thin.img"), lambda operation, error: ask(error))
        ...
        disk.resume()        # there is space again

    Only what the host or the medium did counts: a range that is not on the disk or a write to a
    read-only one is the guest's own mistake, and tried again it would fail again.

    It may be closed at any time: `below` is when nothing is under way any more.
    """

    kind = "stop-on-error"

    def __init__(self, below: Disk, failed: Failed) -> None:
        super().__init__(below)
        self._failed = failed
        self._waiting: list[Promise[None]] = []
        self._active = 0
        self._closing = False

    @property
    def held(self) -> int:
        """How many operations wait."""
        return sum(not waiting.abandoned for waiting in self._waiting)

    def resume(self) -> None:
        """Try all operations again that wait. Called on the engine's thread."""
        waiting, self._waiting = self._waiting, []
        for again in waiting:
            again.give(None)

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read, and again."""
        await self._persist("read", lambda: self.below.read(sector, buffers))

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write, and again."""
        await self._persist("write", lambda: self.below.write(sector, buffers, fua))

    async def flush(self) -> None:
        """Flush, and again."""
        await self._persist("flush", self.below.flush)

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap, and again."""
        await self._persist("unmap", lambda: self.below.unmap(sector, count))

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero, and again."""
        await self._persist(
            "write_zeroes", lambda: self.below.write_zeroes(sector, count, fua, unmap)
        )

    async def _persist(self, name: str, attempt: Callable[[], Operation]) -> None:
        self._active += 1
        try:
            while True:
                try:
                    return await attempt()
                except (IoError, MediumError) as error:
                    if not self._failed(name, error):
                        raise
                again = Promise[None]()
                self._waiting = [*(one for one in self._waiting if not one.abandoned), again]
                await again
        finally:
            self._active -= 1
            if self._closing and not self._active:
                self.below.close()

    def close(self) -> None:
        """Close the disk below, at once or when nothing is under way."""
        self._closing = True
        if not self._active:
            self.below.close()
