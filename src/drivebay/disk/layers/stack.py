"""What layers may lie on each other, and what disk they make (openvmm.md, 3.2 to 3.4)."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from drivebay.disk.contract import MAX_SECTOR_SIZE, Unmap
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.layers.layer import CacheLayer, Layer

__all__ = ["LayerError", "Misplaced", "Place", "check", "unmap_behaviour", "written"]


@dataclass(frozen=True, slots=True)
class Place:
    """A layer and its part in a disk."""

    layer: Layer
    read_cache: bool = False
    """What is read from below is kept in it. Must be a `CacheLayer`."""
    write_through: bool = False
    """What is written to it is written to the next layer too."""


class Misplaced(enum.Enum):
    """Why layers make no disk."""

    NO_LAYERS = "there are none"
    READ_CACHE_NOT_SUPPORTED = "cannot be a read cache"
    INVALID_SECTOR_SIZE = "no disk has such sectors"
    MISMATCHED_SECTOR_SIZE = "has other sectors than the top layer"
    USELESS_WRITE_THROUGH = "nothing is ever written through it"
    READ_ONLY = "is read-only, but would be written"


class LayerError(DiskOpenError):
    """Layers make no disk: `reason` says why, `number` which layer it is, counted from the top."""

    def __init__(self, reason: Misplaced, number: int = 0, what: str = "", hint: str = "") -> None:
        self.reason, self.number = reason, number
        where = f"layer {number}{f' ({what})' if what else ''}: " if what else "layers: "
        super().__init__(where + reason.value, hint)


def check(places: Sequence[Place], read_only: bool) -> None:
    """Raise `LayerError` unless `places` make a disk."""
    if not places:
        raise LayerError(Misplaced.NO_LAYERS)
    through = True
    for number, place in enumerate(places):
        if reason := _misplaced(place, places[0].layer, number == len(places) - 1, through):
            what = f"{place.layer.kind}, sectors of {place.layer.sector_size} bytes"
            raise LayerError(reason, number, what)
        through = through and place.write_through
    for number, layer in enumerate(() if read_only else written(places)):
        if layer.read_only:
            raise LayerError(Misplaced.READ_ONLY, number, layer.kind, "open the disk read-only")


def _misplaced(place: Place, top: Layer, last: bool, through: bool) -> Misplaced | None:
    """`through` says that all layers above are written through."""
    size = place.layer.sector_size
    if size & (size - 1) or not 512 <= size <= MAX_SECTOR_SIZE:
        return Misplaced.INVALID_SECTOR_SIZE
    if size != top.sector_size:
        return Misplaced.MISMATCHED_SECTOR_SIZE
    if place.read_cache and not isinstance(place.layer, CacheLayer):
        return Misplaced.READ_CACHE_NOT_SUPPORTED
    if place.write_through and (last or not through):
        return Misplaced.USELESS_WRITE_THROUGH
    return None


def written(places: Sequence[Place]) -> list[Layer]:
    """The layers that writes go to: the top one, and on through those that write through."""
    layers = []
    for place in places:
        layers.append(place.layer)
        if not place.write_through:
            break
    return layers


def unmap_behaviour(layers: Sequence[Layer]) -> Unmap:
    """Of a disk whose writes go to `layers`."""
    behaviours = {layer.unmap_behaviour for layer in layers}
    if behaviours == {Unmap.ZEROES}:
        return Unmap.ZEROES
    # One may drop a sector that another keeps: only a layer alone may leave open what it does.
    if len(layers) > 1 or Unmap.IGNORED in behaviours:
        return Unmap.IGNORED
    return Unmap.UNSPECIFIED
