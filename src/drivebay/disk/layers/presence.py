"""Which sectors a layer holds."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Final

__all__ = ["Run", "SectorSet"]

Run = tuple[int, int, bool]
"""First sector, number of sectors, whether they are present."""

# Sectors come in regions, and a region is the sorted list of the places where absent turns into
# present (even index) and present into absent (odd index). So the cost of an operation is a search
# in one short list, a run of any length is two numbers, and a region that is present as a whole is
# one shared list.
SHIFT: Final = 16
REGION: Final = 1 << SHIFT
WHOLE: Final = [0, REGION]
NONE: Final[list[int]] = []


class SectorSet:
    """A set of sector numbers, kept as runs."""

    def __init__(self) -> None:
        self._regions: dict[int, list[int]] = {}

    def runs(self, sector: int, count: int) -> list[Run]:
        """The range as runs of present and absent sectors by turns, in order."""
        low = sector & (REGION - 1)
        if low + count <= REGION:
            edges = self._regions.get(sector >> SHIFT, NONE)
            at = bisect_right(edges, low)
            if at == len(edges) or edges[at] >= low + count:
                return [(sector, count, at & 1 == 1)]
        return self._many_runs(sector, sector + count)

    def _many_runs(self, sector: int, end: int) -> list[Run]:
        runs: list[Run] = []
        started, state = sector, None
        while sector < end:
            base = sector >> SHIFT << SHIFT
            edges = self._regions.get(base >> SHIFT, NONE)
            at = bisect_right(edges, sector - base)
            if state not in (None, present := at & 1 == 1):
                runs.append((started, sector - started, not present))
                started = sector
            state = present
            stop = base + (edges[at] if at < len(edges) else REGION)
            sector = min(stop, end)
        if state is not None:
            runs.append((started, end - started, state))
        return runs

    def ranges(self) -> Iterator[tuple[int, int]]:
        """All that is present, as first sectors and counts, in order, cut at regions."""
        for number in sorted(self._regions):
            edges, base = self._regions[number], number << SHIFT
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                yield base + start, end - start

    def __bool__(self) -> bool:
        return bool(self._regions)

    def add(self, sector: int, count: int) -> None:
        """Make the range present."""
        low = sector & (REGION - 1)
        edges = self._regions.get(sector >> SHIFT, NONE)
        at = bisect_right(edges, low)
        if at & 1 and edges[at] >= low + count:  # all of it is there already
            return
        if edges and edges[-1] < low and low + count <= REGION:  # past all that is there
            edges += (low, low + count)
        else:
            self._set(sector, sector + count, True)

    def remove(self, sector: int, count: int) -> None:
        """Make the range absent."""
        self._set(sector, sector + count, False)

    def remove_from(self, sector: int) -> None:
        """Make everything from `sector` on absent."""
        region = sector >> SHIFT
        for beyond in [number for number in self._regions if number > region]:
            del self._regions[beyond]
        self._set(sector, (region + 1) << SHIFT, False)

    def _set(self, sector: int, end: int, present: bool) -> None:
        while sector < end:
            region, low = sector >> SHIFT, sector & (REGION - 1)
            high = min(end - (region << SHIFT), REGION)
            sector += high - low
            edges = self._regions.get(region, NONE)
            first, last = bisect_left(edges, low), bisect_right(edges, high)
            # An edge stays at either end if the sector beyond it is in the other state.
            between = [low] * (first & 1 != present) + [high] * (last & 1 != present)
            if edges is WHOLE or edges is NONE:
                edges = edges.copy()
            edges[first:last] = between
            if not edges:
                self._regions.pop(region, None)
            else:
                self._regions[region] = WHOLE if edges == WHOLE else edges
