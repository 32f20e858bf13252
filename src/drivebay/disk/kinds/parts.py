"""Parts of a disk by themselves, as a running disk is given them: a layer, a latency, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from drivebay.disk.kinds.filters import latency, limits
from drivebay.disk.kinds.layers import sqldiff_file
from drivebay.disk.scanner import Node, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.filters.latency import Latency
    from drivebay.disk.filters.throttle import Limits
    from drivebay.disk.layers.layer import Layer

__all__ = ["LayerText", "parse_latency", "parse_layer", "parse_limits"]

OFF: Final = "off"


@dataclass(frozen=True)
class LayerText:
    """A layer that makes sense; nothing is open yet."""

    prefix: str
    """What stands before the disk below it in a spec, without the colon."""
    open: Callable[[Disk], Layer]
    """Opens it over a disk. Raises `DiskOpenError`."""


def parse_layer(text: str) -> LayerText:
    """``memdiff`` or ``sqldiff:PATH[;create]``. Raises `SpecError`."""
    scanner = Scanner(text, _no_disk)
    name = scanner.name()
    if name == "memdiff":
        scanner.take(":")
        _end(scanner)
        return LayerText(name, _memory)
    if name != "sqldiff" or not scanner.take(":"):
        raise scanner.error("a layer", 0, "memdiff, or sqldiff:PATH;create")
    path, create = sqldiff_file(scanner)
    _end(scanner)

    def over(below: Disk) -> Layer:
        from drivebay.disk.layers.sql import open_over

        return open_over(path, below, create=create, read_only=False)

    # Made now, and never again: a file that is lost must not come back empty.
    return LayerText(text.removesuffix(";create"), over)


def _memory(below: Disk) -> Layer:
    from drivebay.disk.layers.ram import RamLayer

    return RamLayer(below.byte_count, sector_size=below.sector_size)


def parse_latency(text: str) -> Callable[[Disk], Latency]:
    """A PROFILE of ``delay:``, or ``off``: what makes it for a disk. Raises `SpecError`."""
    scanner = Scanner(f"{'0' if text == OFF else text}:", _no_disk)
    found = latency(scanner)
    _end(scanner)
    return found


def parse_limits(text: str) -> Limits:
    """LIMITS of ``throttle:``, or ``off``. Raises `SpecError`."""
    if text == OFF:
        from drivebay.disk.filters.throttle import Limits

        return Limits()
    scanner = Scanner(f"{text}:", _no_disk)
    found = limits(scanner)
    _end(scanner)
    return found


def _end(scanner: Scanner) -> None:
    if scanner.next:
        raise scanner.error("the end")


def _no_disk(scanner: Scanner) -> Node:
    raise scanner.error("no disk")
