"""A disk in an image of Ceph's RADOS block device, through Ceph's own python3-rbd.

Every operation is one of librbd's asynchronous ones, whose end comes on a thread of its own.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from drivebay.disk.buffers import scatter
from drivebay.disk.contract import (
    MAX_BYTES,
    MOST_EXTENTS,
    Buffers,
    Disk,
    Extent,
    Unmap,
    byte_length,
)
from drivebay.disk.errors import (
    DiskOpenError,
    InvalidInput,
    Medium,
    MediumError,
    ReadOnly,
    from_os_error,
)
from drivebay.suspend import Promise, blocking

__all__ = ["RbdDisk"]

SECONDS_TO_CONNECT: Final = "30"


class RbdDisk(Disk):
    """The image `name` of `pool`, perhaps of a `namespace` in it, as it is or as `snapshot` has it.

    `conf` and `user` are Ceph's configuration file and client; without them Ceph's own defaults.
    A writer has an image with the feature exclusive-lock alone. Raises `DiskOpenError`.
    """

    kind = "rbd"
    physical_sector_size = 4096
    unmap_behaviour = Unmap.UNSPECIFIED  # librbd skips parts of a discard that are too small

    def __init__(
        self,
        pool: str,
        name: str,
        *,
        namespace: str = "",
        snapshot: str | None = None,
        conf: str = "",
        user: str | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__()
        self.read_only = read_only
        at = f"@{snapshot}" if snapshot else ""
        self._name = "/".join(filter(None, (pool, namespace, name))) + at
        if snapshot and not read_only:
            raise DiskOpenError(f"rbd:{self._name}: a snapshot is only read", "add ,ro")
        self._opened: list[Callable[[], None]] = []  # what closes what is open, last first
        try:
            self._rbd: Any = importlib.import_module("rbd")
            rados: Any = importlib.import_module("rados")
        except ImportError as error:
            raise DiskOpenError(
                f"rbd:{self._name}: Ceph's Python modules are not installed",
                "apt install python3-rbd, and use the system's Python",
            ) from error
        try:
            limits = {"client_mount_timeout": SECONDS_TO_CONNECT}
            cluster = rados.Rados(conffile=conf, rados_id=user, conf=limits)
            self._opened.append(cluster.shutdown)
            cluster.connect()
            pool_of_ours = cluster.open_ioctx(pool)
            self._opened.append(pool_of_ours.close)
            if namespace:
                pool_of_ours.set_namespace(namespace)
            self._image = self._rbd.Image(
                pool_of_ours, name, snapshot=snapshot, read_only=read_only
            )
            self._opened.append(self._image.close)
            self._look()
        except (self._rbd.Error, rados.Error, OSError) as error:
            self.close()
            raise DiskOpenError(f"rbd:{self._name}: {str(error).partition(chr(10))[0]}") from error
        except DiskOpenError:
            self.close()
            raise

    def _look(self) -> None:
        size = self._image.size()
        if not 0 < size <= MAX_BYTES or size % self.sector_size:
            raise DiskOpenError(f"rbd:{self._name}: {size} bytes are no whole number of sectors")
        self.sector_count = size // self.sector_size
        self.optimal_unmap_sectors = max(self._image.stat()["obj_size"] // self.sector_size, 1)
        if not self.read_only and self._image.features() & self._rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
            self._image.lock_acquire(self._rbd.RBD_LOCK_MODE_EXCLUSIVE)

    # -- operations ------------------------------------------------------------------------------

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Fill `buffers`."""
        length = byte_length(buffers)
        self.check_range(sector, length // self.sector_size)
        if not length:
            return
        promise: Promise[tuple[int, bytes]] = Promise()

        def ended(completion: Any, data: bytes | None) -> None:
            promise.give((completion.get_return_value(), data or b""))

        offset = sector * self.sector_size
        self._start("read", partial(self._image.aio_read, offset, length, ended))
        result, data = await promise
        self._check("read", result)
        if len(data) != length:  # the image was made smaller elsewhere
            raise MediumError(Medium.UNRECOVERED_READ, sector + len(data) // self.sector_size)
        scatter(buffers, memoryview(data))

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Write `buffers`; with `fua`, and flush."""
        length = byte_length(buffers)
        self._check_change(sector, length // self.sector_size)
        if length:
            offset = sector * self.sector_size
            await self._do("write", self._image.aio_write, b"".join(buffers), offset)
        if fua:
            await self.flush()

    async def flush(self) -> None:
        """Make completed writes stable."""
        await self._do("flush", self._image.aio_flush)

    async def unmap(self, sector: int, count: int) -> None:
        """Discard, in whole objects as far as librbd likes."""
        self._check_change(sector, count)
        if count:
            size = self.sector_size
            await self._do("unmap", self._image.aio_discard, sector * size, count * size)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Zero the range without moving data."""
        self._check_change(sector, count)
        if count:
            thick = 0 if unmap else self._rbd.RBD_WRITE_ZEROES_FLAG_THICK_PROVISION
            size = self.sector_size
            call = partial(self._image.aio_write_zeroes, zero_flags=thick)
            await self._do("write zeroes", call, sector * size, count * size)
        if fua:
            await self.flush()

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """The objects that there are."""
        self.check_range(sector, count)
        return await blocking(partial(self._find_extents, sector, sector + count)) if count else []

    def _find_extents(self, sector: int, end: int) -> list[Extent]:
        size = self.sector_size
        found: list[Extent] = []

        def add(start: int, stop: int, exists: bool) -> None:
            if stop > start and len(found) < MOST_EXTENTS:
                found.append(Extent(start, stop - start, allocated=exists, zero=not exists))

        def piece(offset: int, length: int, exists: bool) -> None:
            start, stop = max(offset // size, sector), min(-(-(offset + length) // size), end)
            reached = found[-1].sector + found[-1].count if found else sector
            add(reached, start, False)
            add(max(start, reached), stop, exists)

        try:
            self._image.diff_iterate(
                sector * size, (end - sector) * size, None, piece, whole_object=True
            )
        except self._rbd.Error as error:
            raise self._failed("find holes of", error) from error
        add(found[-1].sector + found[-1].count if found else sector, end, False)
        return found

    async def resize(self, sector_count: int) -> None:
        """Change the image's size."""
        size = sector_count * self.sector_size
        if self.read_only:
            raise ReadOnly(self._name)
        if not 0 < size <= MAX_BYTES:
            raise InvalidInput(f"{self._name}: cannot have {sector_count} sectors")
        before = self.sector_count
        self.sector_count = min(sector_count, before)  # nobody begins to write past the new end
        try:
            await blocking(partial(self._resize, size))
        except BaseException:
            self.sector_count = before
            raise
        self.sector_count = sector_count
        self._resized()

    def _resize(self, size: int) -> None:
        try:
            self._image.resize(size, allow_shrink=True)
        except self._rbd.Error as error:
            raise self._failed("resize", error) from error

    async def refresh(self) -> None:
        """Ask for the image's size again."""
        try:
            size = await blocking(self._image.size)
        except self._rbd.Error as error:
            raise self._failed("refresh", error) from error
        if size // self.sector_size != self.sector_count:
            self.sector_count = size // self.sector_size
            self._resized()

    # -- librbd ----------------------------------------------------------------------------------

    async def _do(self, what: str, call: Callable[..., Any], *arguments: Any) -> None:
        promise: Promise[int] = Promise()
        self._start(what, partial(call, *arguments, lambda c: promise.give(c.get_return_value())))
        self._check(what, await promise)

    def _start(self, what: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except self._rbd.Error as error:
            raise self._failed(what, error) from error

    def _check(self, what: str, result: int) -> None:
        if result < 0:
            raise from_os_error(OSError(-result, ""), f"{what} {self._name}")

    def _failed(self, what: str, error: Any) -> Exception:
        number = abs(getattr(error, "errno", None) or errno.EIO)
        return from_os_error(OSError(number, ""), f"{what} {self._name}")

    def _check_change(self, sector: int, count: int) -> None:
        self.check_range(sector, count)
        if self.read_only:
            raise ReadOnly(self._name)

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Pool and image."""
        return {"image": self._name}

    def close(self) -> None:
        """Close the image, when what is under way has ended, and leave the cluster."""
        while self._opened:
            with suppress(Exception):  # nobody could do anything about it
                self._opened.pop()()
