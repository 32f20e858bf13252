"""What goes wrong for the driver."""

from __future__ import annotations

__all__ = ["ScsiError", "StorVscError", "VmbusError"]


class VmbusError(Exception):
    """The bus refused something, or gave no answer."""


class StorVscError(Exception):
    """The controller ended an operation with this NTSTATUS."""

    def __init__(self, operation: int, status: int) -> None:
        super().__init__(f"operation {operation}: {status:#010x}")
        self.status = status


class ScsiError(Exception):
    """A command failed. `sense` is what the unit says of it, or nothing."""

    def __init__(self, srb_status: int, scsi_status: int, sense: bytes) -> None:
        super().__init__(f"SRB {srb_status:#04x}, SCSI {scsi_status:#04x}, sense {sense.hex()}")
        self.srb_status, self.scsi_status, self.sense = srb_status, scsi_status, sense
