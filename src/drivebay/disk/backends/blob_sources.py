"""Where the objects of `BlobDisk` are: by the scheme of the URL."""

from __future__ import annotations

import errno
import os
import stat
from datetime import timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from drivebay.disk.backends.blob import BlobDisk, Source, changed
from drivebay.disk.errors import DiskError, DiskOpenError, IoError, from_os_error

__all__ = ["SCHEMES", "open_blob"]

STORES: Final = ("s3", "az", "gs")
SCHEMES: Final = ("http", "https", *STORES, "file")
RETRIES: Final[Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


def open_blob(url: str, vhd: bool = False) -> BlobDisk:
    """The object at `url` as a disk; with `vhd` it is a fixed VHD, whose footer is not shown.

    Raises `DiskOpenError`.
    """
    source = _source(url)
    try:
        return _vhd(source) if vhd else BlobDisk(source)
    except BaseException:
        source.close()
        raise


def _source(url: str) -> Source:
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        from drivebay.disk.backends.blob_http import HttpSource

        return HttpSource(url)
    return StoreSource(url) if scheme in STORES else FileSource(unquote(urlsplit(url).path))


def _vhd(source: Source) -> BlobDisk:
    from drivebay.disk.formats.vhd.footer import FOOTER_SIZE, DiskType, parse_footer

    if source.size <= FOOTER_SIZE:
        raise DiskOpenError(f"{source.name}: {source.size} bytes are too few for a VHD")
    try:
        data = source.read(source.size - FOOTER_SIZE, FOOTER_SIZE)
        footer = parse_footer(bytes(data), source.size)
    except DiskError as error:
        raise DiskOpenError(str(error)) from error
    except DiskOpenError as error:
        raise DiskOpenError(f"{source.name}: {error}", error.hint) from error
    if footer.disk_type != DiskType.FIXED:
        hint = f"vhd:blob:flat:{source.name} reads the others"
        raise DiskOpenError(f"{source.name}: no fixed VHD", hint)
    return BlobDisk(source, footer.current_size, footer.unique_id)


class FileSource:
    """The file at `path`, as it was when it was opened.

    Raises `DiskOpenError`.
    """

    pinned = "date"

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise DiskOpenError(f"{path}: {error.strerror}") from error
        self._was = self._identity()
        self.size = self._was[0]
        self.version = str(self._was[1])
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise DiskOpenError(f"{path}: is no file", "a block device is block:PATH")

    def _identity(self) -> tuple[int, int]:
        status = os.fstat(self._fd)
        return status.st_size, status.st_mtime_ns

    def read(self, offset: int, length: int) -> memoryview:
        """See `Source`."""
        data = memoryview(bytearray(length))
        try:
            done = os.preadv(self._fd, [data], offset)
            same = self._identity() == self._was
        except OSError as error:
            raise from_os_error(error, f"read {self.name}") from error
        if not same or done < length:
            raise changed(self.name)
        return data

    def close(self) -> None:
        """See `Source`."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class StoreSource:
    """An object in a store that obstore knows: Amazon S3, Azure Blob, Google Cloud Storage.

    ``s3://BUCKET/KEY``, ``az://CONTAINER/KEY``, ``gs://BUCKET/KEY``. Who we are comes from the
    environment, by the names that each store's own tools use. Raises `DiskOpenError`.
    """

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import from_url
        except ImportError as error:
            raise DiskOpenError(
                f"{url}: needs obstore, which is not installed", "pip install 'drivebay[cloud]'"
            ) from error
        self._obstore = obstore
        self.name = url
        parts = urlsplit(url)
        self._key = unquote(parts.path.lstrip("/"))
        if not parts.netloc or not self._key:
            raise DiskOpenError(f"{url}: names no object", f"as in {parts.scheme}://BUCKET/KEY")
        try:
            self._store = from_url(f"{parts.scheme}://{parts.netloc}", retry_config=RETRIES)
            about = obstore.head(self._store, self._key)
        except Exception as error:  # obstore's own errors, and OSError
            raise DiskOpenError(f"{url}: {_first_line(error)}") from error
        self.size, self._tag, self._date = about["size"], about["e_tag"], about["last_modified"]
        self.pinned = "etag" if self._tag else "date"
        self.version = self._tag or str(self._date)

    def read(self, offset: int, length: int) -> memoryview:
        """See `Source`."""
        options: Any = {"range": (offset, offset + length)}
        if self._tag:
            options["if_match"] = self._tag
        try:
            result = self._obstore.get(self._store, self._key, options=options)
            about, span = result.meta, result.range
            data = memoryview(result.bytes())
        except self._obstore.exceptions.PreconditionError as error:
            raise changed(self.name) from error
        except Exception as error:
            raise IoError(errno.EIO, f"{self.name}: {_first_line(error)}") from error
        same = about["e_tag"] == self._tag if self._tag else about["last_modified"] == self._date
        if not same or about["size"] != self.size:
            raise changed(self.name)
        if tuple(span) != (offset, offset + length) or len(data) != length:
            raise IoError(errno.EIO, f"{self.name}: the store sent another range")
        return data.cast("B")

    def close(self) -> None:
        """See `Source`: obstore closes its connections by itself."""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
