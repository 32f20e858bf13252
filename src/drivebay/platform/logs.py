"""Log lines that a guest can cause are rationed: a guest must not fill the host's disk."""

from __future__ import annotations

import logging
import time

__all__ = ["RationedLog"]


class RationedLog:
    """Warnings about one guest: at most `burst` at once, then one every `interval` seconds."""

    def __init__(self, logger: logging.Logger, burst: int = 10, interval: float = 5.0) -> None:
        self._log, self._burst, self._interval = logger, burst, interval
        self._left = float(burst)
        self._last = time.monotonic()
        self._dropped = 0

    def warning(self, message: str, *arguments: object) -> None:
        """Log it, unless too much was logged lately; what was left out is counted and told."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._last) / self._interval)
        self._last = now
        if self._left < 1:
            self._dropped += 1
            return
        self._left -= 1
        if self._dropped:
            message, self._dropped = f"{message} ({self._dropped} more were not logged)", 0
        self._log.warning(message, *arguments)
