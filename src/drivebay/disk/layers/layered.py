"""A disk made of layers: a sector is read from the topmost that holds it and written to the top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from drivebay.disk.buffers import cut, zero
from drivebay.disk.contract import MOST_EXTENTS, Buffers, Disk, Extent
from drivebay.disk.errors import DiskOpenError, IllegalBlock, ReadOnly
from drivebay.disk.layers.disk import DiskLayer
from drivebay.disk.layers.layer import Layer

if TYPE_CHECKING:
    from drivebay.disk.reservations import Reservations

__all__ = ["LayeredDisk"]


class LayeredDisk(Disk):
    """`layers`, top first. Its size is the top layer's; what no layer holds reads zero.

    A lower layer shows at most as many sectors as the disk ever had while it was part of it: what
    a shrink cut off does not come back when the disk grows.

    Raises `DiskOpenError` if there are no layers, if their sector sizes differ, or if the disk
    should be writable and the top layer is not.
    """

    kind = "layered"

    def __init__(self, layers: Sequence[Layer], *, read_only: bool = False) -> None:
        super().__init__()
        if not layers:
            raise DiskOpenError("a layered disk without layers")
        top = layers[0]
        for number, layer in enumerate(layers):
            if layer.sector_size != top.sector_size:
                raise DiskOpenError(
                    f"layer {number} ({layer.kind}) has sectors of {layer.sector_size} bytes, "
                    f"the top layer has {top.sector_size}"
                )
        if top.read_only and not read_only:
            raise DiskOpenError("the top layer is read-only", "open the disk read-only")
        self.layers = tuple(layers)
        self.sector_size = top.sector_size
        self.physical_sector_size = top.physical_sector_size
        self.read_only = read_only
        self.volatile_cache = top.volatile_cache
        self.persistent = top.persistent
        self.unmap_behaviour = top.unmap_behaviour
        self.optimal_unmap_sectors = top.optimal_unmap_sectors
        self.disk_id = next((layer.disk_id for layer in layers if layer.disk_id), None)
        self._shift = self.sector_size.bit_length() - 1
        self._visible = [layer.sector_count for layer in layers]
        self._show_at_most(top.sector_count)
        top.on_resize(self._top_resized)
        if not read_only:
            self.write = top.write  # type: ignore[method-assign]
            self.flush = top.flush  # type: ignore[method-assign]

    @classmethod
    def over(cls, top: Layer, below: Disk, *, read_only: bool = False) -> LayeredDisk:
        """`top` over `below`, or over the layers of `below` if it is layered itself."""
        if not isinstance(below, LayeredDisk):
            return cls([top, DiskLayer(below)], read_only=read_only)
        disk = cls([top, *below.layers], read_only=read_only)
        disk._visible[1:] = below._visible
        disk._show_at_most(top.sector_count)
        return disk

    # -- reading ---------------------------------------------------------------------------------

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Fill `buffers` from the layers."""
        length = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        count = length >> self._shift
        if sector < 0 or sector + (count or 1) > self.sector_count:
            raise IllegalBlock(sector, count, self.sector_count)
        if not count:
            return
        for runs_of, read, visible in self._sources:  # most reads have one layer as their source
            if sector + count > visible:
                break
            runs = runs_of(sector, count)
            if len(runs) > 1:
                break
            if runs[0][2]:
                await read(sector, buffers)
                return
        for start, run, layer in self._owners(sector, count):
            part = cut(
                buffers, (start - sector) << self._shift, (start - sector + run) << self._shift
            )
            if layer is None:
                zero(part)
            else:
                await layer.read(start, part)

    def _owners(
        self, sector: int, count: int, first: int = 0
    ) -> list[tuple[int, int, Layer | None]]:
        """Which layer from `first` on shows each part of the range; None where none does."""
        owners: list[tuple[int, int, Layer | None]] = []
        open_runs = [(sector, count)]
        for layer, visible in zip(self.layers[first:], self._visible[first:], strict=True):
            missing = []
            for start, run in open_runs:
                seen = max(0, min(run, visible - start))
                if seen < run:
                    owners.append((start + seen, run - seen, None))
                for at, size, present in layer.runs(start, seen) if seen else ():
                    if present:
                        owners.append((at, size, layer))
                    else:
                        missing.append((at, size))
            open_runs = missing
        return owners + [(start, run, None) for start, run in open_runs]

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What the layers hold that show."""
        self.check_range(sector, count)
        found: list[Extent] = []
        for start, run, layer in sorted(self._owners(sector, count)) if count else ():
            if layer is None:
                found.append(Extent(start, run, allocated=False, zero=True))
            else:
                part = await layer.extents(start, run)
                found += part
                if sum(extent.count for extent in part) < run:
                    break
            if len(found) >= MOST_EXTENTS:
                break
        return found

    # -- changing --------------------------------------------------------------------------------

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """The top layer's write, unless the disk is read-only."""
        self.check_range(sector, sum(map(len, buffers)) >> self._shift)
        raise ReadOnly(self.kind)

    async def flush(self) -> None:
        """The top layer's flush: no other layer is written."""

    async def unmap(self, sector: int, count: int) -> None:
        """Unmap in the top layer."""
        for start, run, next_is_zero in self._changes(sector, count):
            await self.layers[0].unmap(start, run, next_is_zero)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero in the top layer."""
        for start, run, next_is_zero in self._changes(sector, count):
            await self.layers[0].write_zeroes(start, run, fua, unmap, next_is_zero)

    def _changes(self, sector: int, count: int) -> list[tuple[int, int, bool]]:
        """The range cut where the layers below begin or cease to show something."""
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self.kind)
        changes: list[tuple[int, int, bool]] = []
        for start, run, layer in sorted(self._owners(sector, count, first=1) if count else ()):
            if changes and changes[-1][2] == (layer is None):
                changes[-1] = (changes[-1][0], changes[-1][1] + run, changes[-1][2])
            else:
                changes.append((start, run, layer is None))
        return changes

    # -- size ------------------------------------------------------------------------------------

    async def resize(self, sector_count: int) -> None:
        """Resize the top layer."""
        if self.read_only:
            raise ReadOnly(self.kind)
        await self.layers[0].resize(sector_count)

    async def refresh(self) -> None:
        """Look at the top layer's medium again."""
        await self.layers[0].refresh()

    def _top_resized(self, sector_count: int) -> None:
        self._show_at_most(sector_count)
        self._resized()

    def _show_at_most(self, sector_count: int) -> None:
        self.sector_count = self._visible[0] = sector_count
        for number in range(1, len(self._visible)):
            self._visible[number] = min(self._visible[number - 1 : number + 1])
        self._sources = [
            (layer.runs, layer.read, visible)
            for layer, visible in zip(self.layers, self._visible, strict=True)
        ]

    # -- the rest --------------------------------------------------------------------------------

    async def eject(self) -> None:
        """Eject the top layer."""
        await self.layers[0].eject()

    @property
    def reservations(self) -> Reservations | None:
        """The top layer's."""
        return self.layers[0].reservations

    @property
    def inner(self) -> Sequence[Disk]:
        """The layers; of a disk as a layer, the disk."""
        return tuple(
            layer.below if isinstance(layer, DiskLayer) else layer for layer in self.layers
        )

    @property
    def allocated_bytes(self) -> int | None:
        """What the top layer holds."""
        return self.layers[0].allocated_bytes

    def close(self) -> None:
        """Close every layer."""
        for layer in self.layers:
            layer.close()
