"""Kinds of disk that are layers over another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import Kind, Node, Opener, Scanner, sector_size

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["KINDS", "sqldiff_file"]


def _memdiff(scanner: Scanner) -> Opener:
    """``memdiff:DISK``."""
    below = scanner.disk()

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.layered import LayeredDisk
        from drivebay.disk.layers.ram import RamLayer

        base = below.open(read_only=True)
        try:
            top = RamLayer(base.byte_count, sector_size=base.sector_size)
            return LayeredDisk.over(top, base, read_only=read_only)
        except BaseException:
            base.close()
            raise

    return opener


def _sql(scanner: Scanner) -> Opener:
    """``sql:PATH[;create=SIZE][;sector=N]``."""
    start = scanner.position
    path = scanner.word("a path")
    options = scanner.options({"create": Scanner.size, "sector": sector_size})
    values = {name: option.value for name, option in options.items()}
    size, sector = values.get("create"), values.get("sector")
    if size is not None and (size == 0 or size % (sector or 512)):
        raise scanner.error(f"a whole number of sectors of {sector or 512} bytes", start)

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.layered import LayeredDisk
        from drivebay.disk.layers.sql import open_alone

        layer = open_alone(path, size, sector, read_only=read_only)
        try:
            return LayeredDisk([layer], read_only=read_only)
        except BaseException:
            layer.close()
            raise

    return opener


def _sqldiff(scanner: Scanner) -> Opener:
    """``sqldiff:PATH[;create]:DISK``."""
    path, create = sqldiff_file(scanner)
    below = _below(scanner)

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.layered import LayeredDisk
        from drivebay.disk.layers.sql import open_over

        base = below.open(read_only=True)
        try:
            top = open_over(path, base, create=create, read_only=read_only)
        except BaseException:
            base.close()
            raise
        try:
            return LayeredDisk.over(top, base, read_only=read_only)
        except BaseException:
            top.close()
            base.close()
            raise

    return opener


def sqldiff_file(scanner: Scanner) -> tuple[str, bool]:
    """Read ``PATH[;create]``: the file, and whether it is made if it is missing."""
    path = scanner.word("a path", stops=";,:")
    create = scanner.take(";")
    at = scanner.position
    if create and scanner.name() != "create":
        raise scanner.error("create", at)
    return path, create


def _autocache(scanner: Scanner) -> Opener:
    """``autocache:[KEY]:DISK``."""
    key = "" if scanner.next == ":" else scanner.word("a key", stops=";,:")
    below = _below(scanner)

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.autocache import open_cache
        from drivebay.disk.layers.layered import LayeredDisk
        from drivebay.disk.layers.stack import Place

        if not read_only:
            raise DiskOpenError(
                "autocache: keeps what is read, and cannot be written",
                "put a layer over it, as memdiff:autocache:..., or attach it read-only",
            )
        base = below.open(read_only=True)
        try:
            cache = open_cache(base, key)
        except BaseException:
            base.close()
            raise
        return LayeredDisk.over(Place(cache, read_cache=True), base, read_only=True)

    return opener


def _below(scanner: Scanner) -> Node:
    if not scanner.take(":"):
        raise scanner.error("':' and a disk")
    return scanner.disk()


KINDS: Final = (
    Kind("memdiff", "memdiff:DISK", _memdiff),
    Kind("sql", "sql:PATH[;create=SIZE][;sector=N]", _sql),
    Kind("sqldiff", "sqldiff:PATH[;create]:DISK", _sqldiff),
    Kind("autocache", "autocache:[KEY]:DISK", _autocache),
)
