"""What the driver tells when a drive does not do what it was asked."""

from __future__ import annotations

from drivebay.ata.registers import Error, Status
from drivebay.controllers.ahci.registers import PxIS
from drivebay.wire import Register

__all__ = ["AhciError", "AhciTimeout"]


class AhciError(Exception):
    """A command that ended with an error: what PxTFD and PxIS said."""

    def __init__(self, what: str, tfd: int = 0, interrupts: int = 0) -> None:
        self.status, self.error = Status(tfd & 0xFF), Error(tfd >> 8 & 0xFF)
        self.interrupts = PxIS(interrupts)
        told = (_set_bits(each) for each in (self.status, self.error, self.interrupts) if each)
        super().__init__(f"{what}: {', '.join(told)}" if tfd | interrupts else what)


class AhciTimeout(AhciError):
    """It does not end, or does not say so."""


def _set_bits(register: Register) -> str:
    return "|".join(field.name for field in register.fields if register & field)
