"""What goes wrong with a guest, said in one line."""

from __future__ import annotations


class GuestError(Exception):
    """A guest could not be had, started, or kept alive.

    `message` says what happened and where; `hint`, when there is one, says what to do about it;
    `console` holds the guest's last console lines when it had any.
    """

    def __init__(self, message: str, hint: str = "", console: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.console = console

    def __str__(self) -> str:
        lines = [f"{self.message} ({self.hint})" if self.hint else self.message]
        lines += [f"  | {line}" for line in self.console.splitlines()]
        return "\n".join(lines)
