"""What carries commands to a real drive: CDBs and data down, status and sense up."""

from __future__ import annotations

from typing import Literal, Protocol

from drivebay.disk.contract import Buffers

__all__ = ["CHECK_CONDITION", "GOOD", "Answer", "Direction", "Transport"]

Direction = Literal["none", "in", "out"]

Answer = tuple[int, bytes, int]
"""SCSI status, sense data (empty if there is none), and the bytes that were not moved."""

GOOD = 0x00
CHECK_CONDITION = 0x02


class Transport(Protocol):
    """A SCSI device of the host, as `disk.backends.sg.SgDevice` is one."""

    def execute(self, cdb: bytes, direction: Direction, buffers: Buffers, seconds: float) -> Answer:
        """Carry out one command, moving data into `buffers` ("in") or out of them; may block.

        Raises `OSError` if the device cannot be reached, or has not answered for `seconds`.
        """
