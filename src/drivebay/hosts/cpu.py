"""What hosts that run a CPU have in common: how a run ends."""

from __future__ import annotations

import enum

__all__ = ["CpuError", "End"]


class CpuError(Exception):
    """The guest did what this CPU cannot do; the message says where."""


class End(enum.Enum):
    """Why a run ended."""

    EXITED = "exited"  # the machine has an exit status
    HALTED = "halted"  # a halt from which nothing wakes it
    TIMEOUT = "timeout"
    STOPPED = "stopped"  # the caller's condition holds
