"""A layer: a disk that can say which of its sectors it holds."""

from __future__ import annotations

from collections.abc import Callable

from drivebay.disk.buffers import zero
from drivebay.disk.contract import Buffers, Disk, Extent, Operation
from drivebay.disk.layers.presence import Run
from drivebay.suspend import DONE

__all__ = ["NOTHING", "CacheLayer", "Layer", "ReadBelow"]

ReadBelow = Callable[[int, Buffers], Operation]
"""Fills buffers from a sector on with what lies below a layer."""


class Layer(Disk):
    """A disk that may hold only some of its sectors; the others show what lies below it.

    Only sectors that are present are read from it. `next_is_zero` says that all layers below read
    zero in the range, so that the layer may drop the sectors instead of holding zeroes.
    """

    def runs(self, sector: int, count: int) -> list[Run]:
        """The range, at least one sector, as runs of present and absent ones by turns, in order.

        No runs at all mean that this is not in memory: then `find_runs` says it.
        """
        raise NotImplementedError

    async def find_runs(self, sector: int, count: int) -> list[Run]:
        """What `runs` says, when it has been found out."""
        return self.runs(sector, count)

    def stand_on(self, read_below: ReadBelow) -> None:
        """It is written, and stands on others: for one that writes more at a time than it is given,
        and takes the rest from below.
        """

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


class CacheLayer(Layer):
    """A layer that can keep what was read from below."""

    async def put(self, sector: int, buffers: Buffers) -> None:
        """Hold these sectors, but for those that it holds already.

        Buffers of at most a mebibyte. What is held when this is called is never replaced, nor what
        is written before it ends.
        """
        raise NotImplementedError


class _Nothing(Layer):
    """What lies under the last layer: zeroes without end."""

    kind = "nothing"

    def read(self, sector: int, buffers: Buffers) -> Operation:
        """Zeroes."""
        zero(buffers)
        return DONE

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """One that is zero."""
        return [Extent(sector, count, allocated=False, zero=True)]


NOTHING = _Nothing()
"""Shows where no layer does."""
