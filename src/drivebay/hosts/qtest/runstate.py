"""Whether the guest runs: somebody stops it, or a disk fails that was told to stop it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from drivebay.disk.contract import Disk
from drivebay.disk.errors import IoError, MediumError, NoSpace
from drivebay.disk.filters.stop_on_error import StopOnError

__all__ = ["RunState"]


class RunState:
    """The run state of a machine, and the disks that may stop it.

    `emit` takes QMP's events. The guest's CPU is whoever speaks qtest, so that nothing else stops.
    """

    def __init__(self) -> None:
        self.emit: Callable[[str, dict[str, Any]], None] = lambda _event, _data: None
        self.status = "running"
        """As ``query-status`` says it: running, paused or io-error."""
        self._disks: list[StopOnError] = []

    @property
    def running(self) -> bool:
        """Whether the guest runs."""
        return self.status == "running"

    def stop(self, status: str = "paused") -> None:
        """Stop the guest."""
        if self.running:
            self.status = status
            self.emit("STOP", {})

    def cont(self) -> None:
        """Let it go on; what failed and waits is tried again."""
        if self.running:
            return
        self.status = "running"
        self.emit("RESUME", {})
        for disk in self._disks:
            disk.resume()

    def guard(self, disk: Disk, name: str, *, stop: bool = False) -> Disk:
        """`disk` with its errors reported under `name`; with `stop` they stop the guest, and what
        failed is tried again when it goes on.
        """
        guarded = StopOnError(disk, partial(self._failed, name, stop))
        self._disks.append(guarded)
        return guarded

    def _failed(self, name: str, stop: bool, operation: str, error: IoError | MediumError) -> bool:
        reason = os.strerror(error.errno) if isinstance(error, IoError) else str(error)
        self.emit(
            "BLOCK_IO_ERROR",
            {
                "device": name,
                "node-name": name,
                "operation": "read" if operation == "read" else "write",
                "action": "stop" if stop else "report",
                "nospace": isinstance(error, NoSpace),
                "reason": reason,
            },
        )
        if stop:
            self.stop("io-error")
        return stop
