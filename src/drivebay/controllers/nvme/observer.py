"""Who may meddle with commands before they act, and with completions before they are posted."""

from __future__ import annotations

from typing import Protocol

from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.platform.observer import Escort as CommandEscort
from drivebay.platform.observer import Observer as CommandObserver

__all__ = ["Escort", "Observer"]

Escort = CommandEscort[Command, Completion]
"""A completion's queue, head and phase are filled in later."""


class Observer(CommandObserver[Command, Completion], Protocol):
    """`queue` is the submission queue's identifier, 0 for the admin queue. Asynchronous events are
    not shown: they end when something happens, not when they are served.
    """

    async def enable(self) -> None:
        """The controller was enabled, and is ready when this ends; never if it raises `Dropped`."""
