"""Kinds of disk that are somewhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import Kind, Opener, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["KINDS"]

BLOB_FORMATS: Final = ("flat", "vhd1")


def _blob(scanner: Scanner) -> Opener:
    """``blob:FORMAT:URL``."""
    from drivebay.disk.backends.blob_sources import SCHEMES

    start = scanner.position
    if (form := scanner.name()) not in BLOB_FORMATS:
        raise scanner.error(f"one of {', '.join(BLOB_FORMATS)}", start)
    if not scanner.take(":"):
        raise scanner.error("':' and a URL")
    start = scanner.position
    url = scanner.word("a URL")
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise scanner.error("a URL", start, str(error)) from error
    if scheme not in SCHEMES:
        raise scanner.error(f"a URL with {', '.join(SCHEMES)}", start)
    scanner.options({})

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.backends.blob_sources import open_blob

        if not read_only:
            raise DiskOpenError(
                "an object is only read", "add ,ro, or keep the writes elsewhere: memdiff:blob:..."
            )
        return open_blob(url, vhd=form == "vhd1")

    return opener


KINDS: Final = (Kind("blob", "blob:FORMAT:URL", _blob),)
