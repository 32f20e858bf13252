"""Disks that a server holds open: looked at again, and closed so that nothing is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError
from drivebay.platform.engine import Engine
from drivebay.suspend import run

__all__ = ["finish", "refresh"]

log = logging.getLogger(__name__)

LAST_SECONDS: Final = 10.0
"""So long requests under way may take when a server is told to end."""


def finish(engine: Engine, at_rest: Callable[[], bool], disks: Iterable[Disk]) -> None:
    """Let requests under way end, then make everything stable, each disk for itself."""
    engine.run_until(at_rest, LAST_SECONDS)
    for disk in disks:
        try:
            if not disk.read_only:
                run(disk.flush())
        except DiskError as error:
            log.error("%s: the last flush failed: %s", disk.kind, error)
        disk.close()
    engine.close()


def refresh(engine: Engine, disks: Iterable[Disk]) -> None:
    """Look at the sizes of the disks again."""
    for disk in disks:
        engine.start(disk.refresh(), _refreshed)


def _refreshed(_value: Any, error: BaseException | None) -> None:
    if error is not None:
        log.error("the new size of a disk is not known: %s", error)
