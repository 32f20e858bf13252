"""A disk in a block device of Linux, whose limits are in sysfs.

Documentation/ABI/stable/sysfs-block in the kernel's tree has their meaning. Reads and writes are
those of a file. A discard may leave what was there; zeroes are written by the device where it can.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from drivebay.disk.backends.fd import NOT_SUPPORTED
from drivebay.disk.backends.file import FileDisk, Limits, wrong_type
from drivebay.disk.backends.linux import KEEP_SIZE, PUNCH_HOLE, fallocate
from drivebay.disk.contract import Unmap
from drivebay.disk.errors import DiskOpenError, InvalidInput

__all__ = ["BlockDisk", "Queue"]

SYSFS: Final = Path("/sys")
BLKDISCARD: Final = 0x1277
RANGE: Final = struct.Struct("QQ")  # the ioctl's argument: first byte, bytes


@dataclass(frozen=True)
class Queue:
    """The limits of a device's request queue. Sizes in bytes; what sysfs does not tell is 0."""

    logical_block_size: int
    physical_block_size: int
    discard_granularity: int
    discard_max_bytes: int
    fua: bool
    write_cache: str
    zoned: str
    identity: str
    """What the device itself says it is, or empty."""

    @classmethod
    def of(cls, device: int) -> Self:
        """The queue of the device, or of the disk that it is a partition of."""
        node = SYSFS / "dev" / "block" / f"{os.major(device)}:{os.minor(device)}"
        partition = _text(node / "partition")
        whole = node / ".." if partition else node

        def number(name: str) -> int:
            text = _text(whole / "queue" / name)
            return int(text) if text.isdigit() else 0

        ids = (_text(whole / name) for name in ("wwid", "device/wwid", "device/serial", "serial"))
        identity = next(filter(None, ids), "")
        return cls(
            number("logical_block_size") or 512,
            number("physical_block_size") or 512,
            number("discard_granularity"),
            number("discard_max_bytes"),
            bool(number("fua")),
            _text(whole / "queue" / "write_cache"),
            _text(whole / "queue" / "zoned"),
            f"{identity} {partition}".strip() if identity else "",
        )


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


class BlockDisk(FileDisk):
    """The block device at `path`; nobody else has it open to write.

    Its sectors are the device's own, or larger if `sector_size` says so. See `FileDisk` for the
    rest. Raises `DiskOpenError`.
    """

    kind = "block"
    missing = "lsblk lists those that are there"
    _queue: Queue
    _zeroing_unmaps = True

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, **options)
        if self.unmap_behaviour is Unmap.ZEROES:  # as holes are; a discard promises less
            self.unmap_behaviour = Unmap.UNSPECIFIED
            self.optimal_unmap_sectors = max(self._queue.discard_granularity // self.sector_size, 1)

    def _check_type(self, mode: int) -> None:
        if not stat.S_ISBLK(mode):
            raise wrong_type(self.path, mode, f"write file:{self.path} for a file")

    def _limits(self, size: int, sector_size: int | None, read_only: bool) -> Limits:
        self._queue = queue = Queue.of(os.fstat(self._fd).st_rdev)
        if sector_size is not None and sector_size < queue.logical_block_size:
            raise DiskOpenError(
                f"{self.path}: its sectors have {queue.logical_block_size} bytes",
                "leave out ;sector",
            )
        if queue.zoned == "host-managed" and not read_only:
            raise DiskOpenError(
                f"{self.path}: its zones can only be written in order", "add ,ro to read it"
            )
        return Limits(
            sector_size or queue.logical_block_size,
            queue.physical_block_size,
            can_unmap=bool(queue.discard_granularity and queue.discard_max_bytes),
        )

    def _identity(self) -> bytes:
        if self._queue.identity:
            return b"drivebay block " + self._queue.identity.encode()
        return super()._identity()

    async def resize(self, sector_count: int) -> None:
        """Raises `InvalidInput`: a device has the size it has. `refresh` notices a new one."""
        raise InvalidInput(f"{self.path}: a block device cannot be resized")

    def _punch(self, offset: int, length: int) -> None:
        try:
            fcntl.ioctl(self._fd, BLKDISCARD, RANGE.pack(offset, length))
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise self._failed(error, "unmap") from error
        if self._write_through:
            self._sync(self._syncs_begun)

    def _zero(self, offset: int, length: int, fua: bool, unmap: bool) -> None:
        if not (unmap and self._zeroed_by_unmap(offset, length)):
            super()._zero(offset, length, fua, unmap=False)
        elif self._write_through or (fua and self._syncs):
            self._sync(self._syncs_begun)

    def _zeroed_by_unmap(self, offset: int, length: int) -> bool:
        if self._zeroing_unmaps:
            try:
                fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, length)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise self._failed(error, "write zeroes") from error
                self._zeroing_unmaps = False
        return self._zeroing_unmaps

    @property
    def allocated_bytes(self) -> None:
        """Nobody knows."""

    @property
    def details(self) -> dict[str, str | int | bool]:
        """Its path and cache mode, and what it says of its own cache."""
        queue = self._queue
        return {**super().details, "fua": queue.fua, "device_cache": queue.write_cache}
