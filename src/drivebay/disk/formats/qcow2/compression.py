"""Compressed clusters (qcow2.txt, "Compressed Clusters Descriptor")."""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.qcow2.refcounts import corrupt

if TYPE_CHECKING:
    from collections.abc import Callable

    Decompress = Callable[[bytes, int], bytes]

__all__ = ["decompressor", "place"]

LARGEST_WINDOW: Final = 23  # bits; no cluster is larger than 21


def place(entry: int, cluster_bits: int) -> tuple[int, int]:
    """Where the cluster of an L2 entry is, and in how many bytes at most."""
    shift = 62 - (cluster_bits - 8)
    offset = entry & ((1 << shift) - 1)
    sectors = entry >> shift & (1 << cluster_bits - 8) - 1
    return offset, (sectors + 1) * 512 - (offset & 511)


def decompressor(method: str, name: str) -> Decompress:
    """What turns the bytes of a compressed cluster into so many others; it raises `DiskError`.

    Raises `DiskOpenError` where the method needs a package that is not installed.
    """
    return _inflate if method == "zlib" else _zstd(name)


def _inflate(data: bytes, size: int) -> bytes:
    try:
        cluster = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
    except zlib.error as error:
        raise _bad(str(error)) from error
    return _checked(cluster, size)


def _zstd(name: str) -> Decompress:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise DiskOpenError(
            f"{name}: its clusters are compressed with zstd, which this Python cannot read",
            "pip install 'drivebay[zstd]' or backports.zstd",
        ) from error
    options = {int(zstd.DecompressionParameter.window_log_max): LARGEST_WINDOW}

    def decompress(data: bytes, size: int) -> bytes:
        try:
            cluster = zstd.ZstdDecompressor(options=options).decompress(data, size)
        except zstd.ZstdError as error:
            raise _bad(str(error)) from error
        return _checked(cluster, size)

    return decompress


def _checked(cluster: bytes, size: int) -> bytes:
    if len(cluster) != size:
        raise _bad(f"{len(cluster)} bytes of {size}")
    return cluster


def _bad(why: str) -> DiskError:
    return corrupt(f"a compressed cluster: {why}")
