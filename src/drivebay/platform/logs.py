"""Log lines that a guest can cause are rationed: a guest must not fill the host's disk."""

from __future__ import annotations

import logging
import time

__all__ = ["RationedLog"]


class RationedLog:
    """Lines about one guest: at most `burst` at once, then one every `interval` seconds.

    Warnings and errors have a ration each, so that a guest cannot talk down a bug of ours.
    """

    def __init__(self, logger: logging.Logger, burst: int = 10, interval: float = 5.0) -> None:
        self._log = logger
        self._warnings, self._errors = _Ration(burst, interval), _Ration(burst, interval)

    def warning(self, message: str, *arguments: object) -> None:
        """Log it, unless too much was logged lately; what was left out is counted and told."""
        self._say(self._warnings, logging.WARNING, message, arguments, None)

    def error(self, message: str, *arguments: object, exc_info: BaseException) -> None:
        """The same for an error, with its traceback."""
        self._say(self._errors, logging.ERROR, message, arguments, exc_info)

    def _say(
        self,
        ration: _Ration,
        level: int,
        message: str,
        arguments: tuple[object, ...],
        error: BaseException | None,
    ) -> None:
        if ration.allows():
            dropped, ration.dropped = ration.dropped, 0
            if dropped:
                message = f"{message} ({dropped} more were not logged)"
            self._log.log(level, message, *arguments, exc_info=error)


class _Ration:
    def __init__(self, burst: int, interval: float) -> None:
        self._burst, self._interval = burst, interval
        self._left = float(burst)
        self._last = time.monotonic()
        self.dropped = 0

    def allows(self) -> bool:
        """Whether there is something left; if not, one more is dropped."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._last) / self._interval)
        self._last = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True
