"""The contract of a disk: what every backend, filter and layered disk promises every controller.

Sectors are `Disk.sector_size` bytes and numbered from 0. A buffer is a memoryview of bytes; the
buffers of one operation are its data in order, cut anywhere, and their total is a whole number of
sectors: callers must see to that, since only they know what status a guest gets for less.

Who does what, and why the other cannot:

* The *backend* checks the range, at the moment it acts, against its own size: a disk may be resized
  between a caller's check and its use. It raises `IllegalBlock` for any range that does not lie on
  the disk, however large the numbers, before it has touched anything.
* The *caller* may have any number of operations in flight and gets no ordering between them. A
  flush covers every write that had completed when the flush was issued, and no other.
* A write with ``fua`` is stable when it completes. A disk whose `volatile_cache` is False completes
  no write before it is stable; its flush has nothing left to do.
* A flush that fails has lost writes, and says so once to each flush that covers them; it never
  turns into success later.
* A call makes an operation, which may have happened when the call returns: then it may be `DONE`
  itself, and no coroutine was made. What goes wrong is raised when it is awaited, not by the call.
* An operation raises a `DiskError` or it is a bug. Buffers are not touched after it has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from drivebay.disk.errors import IllegalBlock, InvalidInput, UnsupportedEject

if TYPE_CHECKING:
    from drivebay.disk.reservations import Reservations

__all__ = ["MOST_EXTENTS", "Buffers", "Disk", "Extent", "Operation", "Unmap", "byte_length"]

Buffers: TypeAlias = Sequence[memoryview]
Operation: TypeAlias = Coroutine[Any, Any, None]

MAX_SECTOR_SIZE = 1 << 16
MAX_BYTES = (1 << 63) - 1  # file offsets are signed 64-bit numbers
MOST_EXTENTS: Final = 1024
"""An answer of `Disk.extents` has about as many, so that nobody waits for a long one."""


class Unmap(enum.Enum):
    """What an unmapped range reads as afterwards."""

    ZEROES = "zeroes"
    """Zeroes, always."""
    UNSPECIFIED = "unspecified"
    """Zeroes or its old content, sector by sector."""
    IGNORED = "ignored"
    """Its old content: unmap does nothing, and a controller must not offer it."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Sectors that are alike."""

    sector: int
    count: int
    allocated: bool
    """The medium holds space for them."""
    zero: bool
    """They are known to read zero; False says nothing."""


def byte_length(buffers: Buffers) -> int:
    """The bytes in `buffers` together."""
    if len(buffers) == 1:
        return len(buffers[0])
    return sum(map(len, buffers))


class Disk:
    """Sectors that can be read and written. Subclasses implement the operations and the size.

    The attributes are constant while the disk is open, but for `sector_count`.
    """

    kind: str = "disk"
    """The short name of its type, as in a disk spec: ``file``, ``mem``."""
    sector_size: int = 512
    """Bytes in a logical sector: a power of two, 512 to 65536."""
    physical_sector_size: int = 512
    """Bytes the medium writes at once: a power of two, not less than `sector_size`."""
    sector_count: int = 0
    """Capacity in sectors; follows a resize."""
    read_only: bool = False
    """Writes, unmaps and resizes raise `ReadOnly`."""
    volatile_cache: bool = True
    """Completed writes may be lost by a power cut until a flush ("WCE")."""
    persistent: bool = True
    """What was flushed outlives this process."""
    unmap_behaviour: Unmap = Unmap.IGNORED
    optimal_unmap_sectors: int = 1
    """Unmaps aligned to and in multiples of this many sectors free the most."""
    disk_id: bytes | None = None
    """16 bytes that tell this disk from any other, stable across restarts, or None."""

    def __init__(self) -> None:
        self._resize_listeners: list[Callable[[int], None]] = []

    # -- operations ------------------------------------------------------------------------------

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Fill `buffers` from `sector` on. Zero bytes at a valid sector succeed."""
        raise NotImplementedError

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write `buffers` from `sector` on; with `fua` they are stable on return."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Make every write that has completed stable."""
        raise NotImplementedError

    async def unmap(self, sector: int, count: int) -> None:
        """Tell the disk that `count` sectors are no longer needed. See `unmap_behaviour`."""
        raise NotImplementedError

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Make `count` sectors read zero; with `unmap` they may be deallocated."""
        raise NotImplementedError

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What the medium holds from `sector` on: extents without a gap, in order.

        They may end before the range does where there are many, but not before its first sector.
        """
        self.check_range(sector, count)
        return [Extent(sector, count, allocated=True, zero=False)] if count else []

    async def resize(self, sector_count: int) -> None:
        """Change the capacity and tell the listeners. A shrunk and regrown part reads zero.

        Raises `InvalidInput` where the disk cannot be resized.
        """
        raise InvalidInput(f"{self.kind}: cannot be resized")

    async def refresh(self) -> None:
        """Look at the medium again: a size changed behind our back is a resize."""

    async def eject(self) -> None:
        """The guest has ejected the medium. Raises `UnsupportedEject` where that has no meaning."""
        raise UnsupportedEject(f"{self.kind}: cannot be ejected")

    # -- capabilities ----------------------------------------------------------------------------

    @property
    def reservations(self) -> Reservations | None:
        """Persistent reservations, where the disk has them."""
        return None

    @property
    def inner(self) -> Sequence[Disk]:
        """The disks this one stands on, top first, for people who look at the stack."""
        return ()

    @property
    def details(self) -> dict[str, str | int | bool]:
        """What else a person wants to know of this disk: its path, its cache mode."""
        return {}

    @property
    def allocated_bytes(self) -> int | None:
        """Bytes the medium holds for this disk, where that can be told."""
        return None

    # -- size ------------------------------------------------------------------------------------

    @property
    def byte_count(self) -> int:
        """Capacity in bytes."""
        return self.sector_count * self.sector_size

    def on_resize(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call ``listener(sector_count)`` after each resize, on the thread that resized.

        Returns what ends it.
        """
        self._resize_listeners.append(listener)
        return lambda: self._resize_listeners.remove(listener)

    def _resized(self) -> None:
        for listener in tuple(self._resize_listeners):
            listener(self.sector_count)

    # -- for subclasses --------------------------------------------------------------------------

    def check_range(self, sector: int, count: int) -> None:
        """Raise `IllegalBlock` unless the range lies on the disk. One of no sectors must begin on
        it.
        """
        if sector < 0 or count < 0 or sector + (count or 1) > self.sector_count:
            raise IllegalBlock(sector, count, self.sector_count)

    def check_geometry(self) -> None:
        """Raise `InvalidInput` unless the sizes keep the contract."""
        logical, physical = self.sector_size, self.physical_sector_size
        if logical & (logical - 1) or not 512 <= logical <= MAX_SECTOR_SIZE:
            raise InvalidInput(f"sector size {logical}: not a power of two from 512 to 65536")
        if physical & (physical - 1) or physical < logical:
            raise InvalidInput(
                f"physical sector size {physical}: not a power of two of at least {logical}"
            )
        if not 0 <= self.byte_count <= MAX_BYTES:
            raise InvalidInput(f"{self.sector_count} sectors: more than 2^63 bytes")

    def close(self) -> None:
        """Let go of files and locks. The disk is not used again."""
