"""A layer: a disk that can say which of its sectors it holds."""

from __future__ import annotations

from drivebay.disk.contract import Disk
from drivebay.disk.layers.presence import Run

__all__ = ["Layer"]


class Layer(Disk):
    """A disk that may hold only some of its sectors; the others show what lies below it.

    Only sectors that are present are read from it. `next_is_zero` says that all layers below read
    zero in the range, so that the layer may drop the sectors instead of holding zeroes.
    """

    def runs(self, sector: int, count: int) -> list[Run]:
        """The range, at least one sector, as runs of present and absent ones by turns, in order."""
        raise NotImplementedError

    async def unmap(self, sector: int, count: int, next_is_zero: bool = True) -> None:
        """As for a disk; a layer that promises zeroes holds them where below is data."""
        raise NotImplementedError

    async def write_zeroes(
        self,
        sector: int,
        count: int,
        fua: bool = False,
        unmap: bool = False,
        next_is_zero: bool = True,
    ) -> None:
        """As for a disk."""
        raise NotImplementedError
