"""A PC with an IDE controller, whose drives come and go, and floppy drives that do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from drivebay.controllers.ide import PIIX3, PiixIde
from drivebay.disk.contract import Disk
from drivebay.machines.ata import AtaBay
from drivebay.machines.floppy import FLOPPY, FloppySlot, plug_floppy
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.platform.pci import PciIdentity

__all__ = ["PcWithIde"]

PLACES: Final = {(f"ide.{channel}", unit): (channel, unit) for channel in (0, 1) for unit in (0, 1)}
SLOT, FUNCTION = 1, 1


class PcWithIde(AtaBay[tuple[int, int]]):
    """`Pc` with a PIIX IDE function at 00:01.1: `board` is the PC, `ide` the function."""

    def __init__(self, ram_size: int, engine: Engine, *, identity: PciIdentity = PIIX3) -> None:
        self.board = Pc(engine, ram_size, lenient_floppy=True)
        self.clock = self.board.clock
        lines = (self.board.line(14), self.board.line(15))
        self.ide = ide = PiixIde(self.board.memory, lines, identity)
        self.board.bus.plug(SLOT, FUNCTION, ide)
        super().__init__(
            "pc",
            engine,
            PLACES,
            attach=lambda place, drive: ide.attach(*place, drive),
            detach=lambda place: ide.detach(*place),
        )

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """Put a drive in, a ``floppy`` too. Raises `MachineError`."""
        if driver == FLOPPY:
            self.drives[id] = plug_floppy(self.board, disk, options)
        else:
            super().plug(driver, id, disk, options)

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """Pull a drive. Raises `MachineError`."""
        drive = self.drives.get(id)
        if isinstance(drive, FloppySlot):
            drive.unplug()
            del self.drives[id]
            gone()
        else:
            super().unplug(id, gone)
