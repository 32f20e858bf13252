"""What a driver tells when a drive does not do what it was asked."""

from __future__ import annotations

from drivebay.controllers.floppy.registers import Status0, Status1, Status2

__all__ = ["FloppyError", "FloppyTimeout"]


class FloppyError(Exception):
    """A command that ended with an error; `st0`, `st1` and `st2` are what its result said."""

    def __init__(self, what: str, st0: int = 0, st1: int = 0, st2: int = 0) -> None:
        self.st0, self.st1, self.st2 = Status0(st0), Status1(st1), Status2(st2)
        bits = [
            field.name
            for status in (self.st1, self.st2)
            for field in status.fields
            if status & field
        ]
        super().__init__(f"{what}: {'|'.join(bits)}" if bits else what)


class FloppyTimeout(FloppyError):
    """The controller does not end what it was asked, or does not say so."""
