"""The kinds of disk that a spec can name from the start. Others join through `spec.register`.

A disk's module is imported when one is opened: a command that opens none should start at once.
"""

from __future__ import annotations

from typing import Final

from drivebay.disk.kinds import files, filters, formats, layers, network
from drivebay.disk.scanner import Kind

__all__ = ["KINDS"]

KINDS: Final[tuple[Kind, ...]] = (
    *files.KINDS,
    *network.KINDS,
    *formats.KINDS,
    *layers.KINDS,
    *filters.KINDS,
)
