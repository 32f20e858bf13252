"""Fault rules on a floppy controller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from drivebay.controllers.floppy import FloppyController
from drivebay.controllers.floppy.company import Refused
from drivebay.lab.dialects import floppy
from drivebay.lab.rules import Fail, Rule, Subject
from drivebay.lab.torment import CoreFaults, Extent
from drivebay.platform.engine import Engine

__all__ = ["FLOPPY", "FloppyFaults"]

FLOPPY: Final = floppy.VOCABULARY


class FloppyFaults(CoreFaults[bytes, bytes]):
    """Has `rules` work on `fdc`, called `name` in them, until `close`. Its data are not theirs.
    What `remove` takes away is the disk in a drive. One that dies is busy until it is reset.
    """

    def __init__(
        self,
        fdc: FloppyController,
        engine: Engine,
        rules: Iterable[Rule] = (),
        name: str = "floppy",
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        super().__init__(engine, rules, name, remove or self._eject)
        self.fdc = fdc
        fdc.company.observer = self

    def close(self) -> None:
        """Nothing is done to commands any more."""
        super().close()
        if self.fdc.company.observer is self:
            self.fdc.company.observer = None

    def describe(self, queue: int, command: bytes) -> Subject:
        """By the floppy dialect."""
        return floppy.describe(queue, command, self.name)

    def extent(self, subject: Subject) -> Extent:
        """The disk in the drive; where in it, the medium says."""
        drive = self.fdc.drives[subject.queue]
        return Extent(None if drive is None else drive.disk)

    def refusal(self, subject: Subject, command: bytes, action: Fail) -> Exception:
        """A bit of ST1 or ST2 by its name."""
        byte, bit = floppy.STATUSES[action.status]
        return Refused(bit if byte == 1 else 0, bit if byte == 2 else 0)

    def die(self, subject: Subject, why: str) -> None:
        """It never says another word: as if the command were ignored."""

    def _eject(self, subject: Subject) -> None:
        drive = self.fdc.drives[subject.queue]
        if drive is not None and drive.disk is not None:
            self.fdc.eject(subject.queue)
