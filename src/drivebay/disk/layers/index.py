"""Which of many layers shows a sector, without asking each of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from drivebay.disk.layers.layer import NOTHING, Layer
from drivebay.disk.layers.presence import REGION, SHIFT, Run

__all__ = ["MergedIndex", "Owned", "find_runs"]

Owned = tuple[int, int, Layer]
"""First sector, number of sectors, the layer that shows them."""

_Region = tuple["array[int]", list[Layer]]
"""The places in a region where another layer takes over, and the layers, one more."""

MOST_ENTRIES: Final = 1 << 20
"""Runs kept at most, of some 16 bytes; a region counts for as much as 16 of them besides."""
REGION_ENTRIES: Final = 16


class MergedIndex:
    """Answers for `layers`, top first, none of which changes what it holds.

    Of each only the first of `visible` sectors are seen, and where one is not seen, none below is.
    A region is looked up in every layer when it is first asked for; those longest known are
    forgotten when there are too many.
    """

    def __init__(self, layers: Sequence[Layer], visible: Sequence[int]) -> None:
        self._layers = tuple(zip(layers, visible, strict=True))
        self._regions: dict[int, _Region] = {}
        self._entries = 0

    def owner(self, sector: int, count: int) -> Layer | None:
        """The one layer that shows the whole range, which is not empty; None if several do, or if
        that is not known yet.
        """
        region = self._regions.get(sector >> SHIFT)
        if region is None:
            return None
        edges, layers = region
        low = sector & (REGION - 1)
        at = bisect_right(edges, low) if edges else 0
        if low + count <= (edges[at] if at < len(edges) else REGION):
            return layers[at]
        return None

    async def owners(self, sector: int, count: int) -> list[Owned]:
        """Which layer shows each part of the range, in order."""
        if not self._layers:
            return [(sector, count, NOTHING)]
        owned: list[Owned] = []
        end = sector + count
        while sector < end:
            base = sector >> SHIFT << SHIFT
            edges, layers = self._regions.get(base >> SHIFT) or await self._look_up(base >> SHIFT)
            at = bisect_right(edges, sector - base)
            stop = min(base + edges[at] if at < len(edges) else base + REGION, end)
            _append(owned, sector, stop - sector, layers[at])
            sector = stop
        return owned

    async def _look_up(self, number: int) -> _Region:
        base = number << SHIFT
        starts: list[int] = [0]
        layers: list[Layer] = [NOTHING]
        for layer, seen, runs in reversed(await self._runs(base)):
            if seen < REGION:
                _paint(starts, layers, seen, REGION, NOTHING)
            for start, run, present in runs:
                if present:
                    _paint(starts, layers, start - base, start - base + run, layer)
        kept = [at for at, layer in enumerate(layers) if at == 0 or layers[at - 1] is not layer]
        region = array("I", [starts[at] for at in kept[1:]]), [layers[at] for at in kept]
        if number not in self._regions:  # somebody else may have looked it up meanwhile
            self._regions[number] = region
            self._entries += len(kept) + REGION_ENTRIES
        while self._entries > MOST_ENTRIES and len(self._regions) > 1:
            _, layers = self._regions.pop(next(iter(self._regions)))
            self._entries -= len(layers) + REGION_ENTRIES
        return region

    async def _runs(self, base: int) -> list[tuple[Layer, int, list[Run]]]:
        """The layers down to the first that hides the rest, how many sectors of the region are seen
        of each, and what it holds of them.
        """
        found = []
        for layer, visible in self._layers:
            seen = max(0, min(REGION, visible - base))
            runs = await find_runs(layer, base, seen)
            found.append((layer, seen, runs))
            if not seen or (len(runs) == 1 and runs[0][2]):
                break
        return found


def _paint(starts: list[int], layers: list[Layer], start: int, end: int, layer: Layer) -> None:
    """Let `layer` show the sectors from `start` to `end`.

    `starts` are where parts of a region begin, `layers` what shows them.
    """
    first, last = bisect_left(starts, start), bisect_left(starts, end)
    if end < REGION and (last == len(starts) or starts[last] != end):
        starts[first:last], layers[first:last] = [start, end], [layer, layers[last - 1]]
    else:
        starts[first:last], layers[first:last] = [start], [layer]


async def find_runs(layer: Layer, sector: int, count: int) -> list[Run]:
    """What `layer` holds of the range, which may be empty, from memory or not."""
    if not count:
        return []
    return layer.runs(sector, count) or await layer.find_runs(sector, count)


def _append(owned: list[Owned], start: int, run: int, layer: Layer) -> None:
    """Add a part, to the last one if that is the same layer's."""
    if owned and owned[-1][2] is layer:
        owned[-1] = (owned[-1][0], owned[-1][1] + run, layer)
    else:
        owned.append((start, run, layer))
