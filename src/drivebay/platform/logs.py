"""Log lines that a guest can cause are rationed: a guest must not fill the host's disk."""

from __future__ import annotations

import logging
import time

__all__ = ["RationedLog"]


class RationedLog:
    """Lines about one guest: at most `burst` at once, then one every `interval` seconds."""

    def __init__(self, logger: logging.Logger, burst: int = 10, interval: float = 5.0) -> None:
        self._log, self._burst, self._interval = logger, burst, interval
        self._left = float(burst)
        self._last = time.monotonic()
        self._dropped = 0

    def warning(self, message: str, *arguments: object) -> None:
        """Log it, unless too much was logged lately; what was left out is counted and told."""
        self._say(logging.WARNING, message, arguments, None)

    def error(self, message: str, *arguments: object, exc_info: BaseException) -> None:
        """The same for an error, with its traceback."""
        self._say(logging.ERROR, message, arguments, exc_info)

    def _say(
        self,
        level: int,
        message: str,
        arguments: tuple[object, ...],
        error: BaseException | None,
    ) -> None:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._last) / self._interval)
        self._last = now
        if self._left < 1:
            self._dropped += 1
            return
        self._left -= 1
        if self._dropped:
            message, self._dropped = f"{message} ({self._dropped} more were not logged)", 0
        self._log.log(level, message, *arguments, exc_info=error)
