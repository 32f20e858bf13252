"""An encrypted disk, as Linux's dm-crypt keeps one with ``aes-xts-plain64``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from drivebay.disk.buffers import ZEROES, cut, gather, scatter
from drivebay.disk.contract import Buffers, Disk, Extent, Unmap, byte_length
from drivebay.disk.errors import DiskOpenError, ReadOnly
from drivebay.disk.filters.base import Filter
from drivebay.suspend import blocking

if TYPE_CHECKING:
    from drivebay.disk.filters.xts import Xts

__all__ = ["CIPHERS", "Crypt", "open_xts", "read_key"]

CIPHERS: Final = {"xts-aes-256": 64}
"""The bytes of a cipher's key."""
PIECE: Final = 1 << 20
"""What is encrypted at once, so that the size of a request does not decide what memory it takes."""
INLINE: Final = 64 << 10
"""Up to so many bytes are not worth the way to a worker thread and back."""

Work = Callable[[int, memoryview, memoryview], None]


def read_key(path: str, size: int) -> bytes:
    """The key in the file `path`, which holds exactly `size` bytes. Raises `DiskOpenError`."""
    try:
        with open(path, "rb") as file:
            key = file.read(size + 1)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = f"head -c {size} /dev/urandom > {path} makes a key" if missing else ""
        raise DiskOpenError(f"{path}: {error.strerror}", hint) from error
    if len(key) != size:
        length = "more" if len(key) > size else len(key)
        raise DiskOpenError(
            f"{path}: a key of {size} bytes is wanted, this has {length}",
            f"head -c {size} /dev/urandom makes one",
        )
    return key


class Crypt(Filter):
    """Encrypts what lies on `below` with `key`: the data key, then as long a tweak key.

    The tweak of a sector is its number times `step`. Sectors of 512 bytes are what dm-crypt calls
    ``aes-xts-plain64``; larger ones are the same with ``iv_large_sectors``. The buffers of a write
    are not changed, and those of a read never hold what is encrypted.

    No unmapped sector would read as the contract allows, so none is unmapped. Raises
    `DiskOpenError`.
    """

    kind = "crypt"

    def __init__(self, below: Disk, key: bytes, name: str = "key", step: int = 1) -> None:
        super().__init__(below)
        half = len(key) // 2
        if key[:half] == key[half:]:
            raise DiskOpenError(
                f"{name}: the two halves of the key are equal", "AES-XTS would be no secret at all"
            )
        self._xts = open_xts(key, self.sector_size, step)
        self.unmap_behaviour = Unmap.IGNORED
        self.optimal_unmap_sectors = 1

    @property
    def details(self) -> dict[str, str | int | bool]:
        """The cipher."""
        return {"cipher": "aes-xts-plain64"}

    async def read(self, sector: int, buffers: Buffers) -> None:
        """Read, and decrypt into the buffers."""
        length = byte_length(buffers)
        if length > PIECE:  # a part must not be read if the whole cannot be
            self.check_range(sector, length // self.sector_size)
        for start in range(0, length or 1, PIECE):
            piece = cut(buffers, start, start + PIECE)
            size = byte_length(piece)
            secret = memoryview(bytearray(size))
            at = sector + start // self.sector_size
            await self.below.read(at, [secret])
            clear = piece[0] if len(piece) == 1 else memoryview(bytearray(size))
            await self._work(self._xts.decrypt, at, secret, clear)
            if len(piece) > 1:
                scatter(piece, clear)

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        """Encrypt a copy, and write it."""
        length = byte_length(buffers)
        self.check_range(sector, length // self.sector_size)
        for start in range(0, length or 1, PIECE):
            piece = cut(buffers, start, start + PIECE)
            size = byte_length(piece)
            if len(piece) == 1:
                clear = piece[0]
            else:
                clear = memoryview(bytearray(size))
                gather(piece, clear)
            secret = memoryview(bytearray(size))
            at = sector + start // self.sector_size
            await self._work(self._xts.encrypt, at, clear, secret)
            await self.below.write(at, [secret], fua)

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        """Write zeroes, which are as long as any data when they are encrypted."""
        self.check_range(sector, count)
        step = len(ZEROES) // self.sector_size
        for start in range(0, count or 1, step):
            size = min(step, count - start) * self.sector_size
            await self.write(sector + start, [ZEROES[:size]], fua)

    async def unmap(self, sector: int, count: int) -> None:
        """Not forwarded: nothing happens."""
        if self.read_only:
            raise ReadOnly("unmap of a read-only disk")
        self.check_range(sector, count)

    async def extents(self, sector: int, count: int) -> list[Extent]:
        """What is allocated below. What is zero there is noise here."""
        below = await self.below.extents(sector, count)
        return [replace(extent, zero=False) for extent in below]

    async def resize(self, sector_count: int) -> None:
        """Resize, and encrypt zeroes into what is new: that may take long."""
        before = self.sector_count
        await self.below.resize(sector_count)
        if sector_count > before:
            try:
                await self.write_zeroes(before, sector_count - before)
            except BaseException:
                await self.below.resize(before)  # what is new would read as noise
                raise

    async def _work(self, work: Work, sector: int, data: memoryview, into: memoryview) -> None:
        if len(data) <= INLINE:
            work(sector, data, into)
        else:
            await blocking(lambda: work(sector, data, into))


def open_xts(key: bytes, sector_size: int, step: int = 1) -> Xts:
    """What encrypts with `key`. Raises `DiskOpenError` where the package for it is missing."""
    try:
        from drivebay.disk.filters.xts import xts
    except ImportError as error:
        raise DiskOpenError(
            "crypt: the Python package cryptography is not installed",
            "pip install 'drivebay[crypt]'",
        ) from error
    return xts(key, sector_size, step)
