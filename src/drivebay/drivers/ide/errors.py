"""What a driver tells when a drive does not do what it was asked."""

from __future__ import annotations

from drivebay.ata.registers import Error, Status
from drivebay.scsi.sense import Sense
from drivebay.wire import Register

__all__ = ["IdeError", "IdeTimeout", "PacketError"]


class IdeError(Exception):
    """A command that ended with an error: `status` and `error` are what the registers said."""

    def __init__(self, what: str, status: int = 0, error: int = 0) -> None:
        self.status, self.error = Status(status), Error(error)
        registers = ", ".join(_set_bits(each) for each in (self.status, self.error) if each)
        super().__init__(f"{what}: {registers}" if registers else what)


class IdeTimeout(IdeError):
    """The drive does not end what it was asked, or does not say so."""


class PacketError(IdeError):
    """A packet command ended with CHECK CONDITION; `sense` is what REQUEST SENSE told."""

    def __init__(self, what: str, status: int, error: int, sense: Sense) -> None:
        super().__init__(what, status, error)
        self.args = (f"{what}: {sense.key.name} {sense.asc:02x}/{sense.ascq:02x}",)
        self.sense = sense


def _set_bits(register: Register) -> str:
    return "|".join(field.name for field in register.fields if register & field)
