"""What the driver tells when a controller does not do what it was asked."""

from __future__ import annotations

from drivebay.controllers.nvme.status import status_name
from drivebay.controllers.nvme.structures import Completion

__all__ = ["NvmeError", "NvmeTimeout"]


class NvmeError(Exception):
    """A command that ended with an error; `status` is its type and code, SCT << 8 | SC."""

    def __init__(self, what: str, completion: Completion | None = None) -> None:
        self.completion = completion
        self.status = 0 if completion is None else completion.status >> 1 & 0x7FF
        name = "" if completion is None else f": {status_name(self.status)}"
        super().__init__(what + name)


class NvmeTimeout(NvmeError):
    """It does not end, or does not say so."""
