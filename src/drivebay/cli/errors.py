"""Errors a person sees: one line that says what and where, then a hint; exit status 1."""

from __future__ import annotations

__all__ = ["CliError", "ToldAlready", "told"]


class CliError(Exception):
    """What went wrong, and what to do about it. The exit status is `status`."""

    def __init__(self, message: str, hint: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.hint, self.status = hint, status


class ToldAlready(CliError):
    """Another process of ours has said what went wrong."""


def told(error: BaseException) -> CliError | None:
    """`error` as a person should read it, or None if it is a bug of ours."""
    from drivebay.disk.errors import DiskError, DiskOpenError, ReadOnly
    from drivebay.guests.errors import GuestError
    from drivebay.hosts.control.client import ControlError
    from drivebay.hosts.vhost_user.server import ServerError

    if isinstance(error, CliError):
        return error
    if isinstance(error, GuestError):
        console = "".join(f"\n  | {line}" for line in error.console.splitlines())
        return CliError(error.message + console, error.hint)
    if isinstance(error, DiskOpenError | ServerError | ControlError):
        return CliError(str(error), error.hint)
    if isinstance(error, ReadOnly):
        return CliError(f"{error}: it is only read")
    if isinstance(error, DiskError):
        return CliError(str(error))
    return None
