"""Waiting for other commands to end, which is rare enough to look again and again."""

from __future__ import annotations

from drivebay.platform.engine import Engine, Timer
from drivebay.suspend import Resume, Suspension, Workers

__all__ = ["Pause"]

SECONDS = 0.0005


class Pause(Suspension[None]):
    """A moment in which others run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timer: Timer | None = None

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Called by the engine."""
        self._timer = self._engine.after(SECONDS, lambda: resume(None, None))

    def cancel(self) -> bool:
        """It can be given up."""
        if self._timer is not None:
            self._timer.cancel()
        return True
