"""A PC with an IDE controller, whose drives come and go."""

from __future__ import annotations

from typing import Final

from drivebay.controllers.ide import PIIX3, PiixIde
from drivebay.machines.ata import AtaBay
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.platform.pci import PciIdentity

__all__ = ["PcWithIde"]

PLACES: Final = {(f"ide.{channel}", unit): (channel, unit) for channel in (0, 1) for unit in (0, 1)}
SLOT, FUNCTION = 1, 1


class PcWithIde(AtaBay[tuple[int, int]]):
    """`Pc` with a PIIX IDE function at 00:01.1: `board` is the PC, `ide` the function."""

    def __init__(self, ram_size: int, engine: Engine, *, identity: PciIdentity = PIIX3) -> None:
        self.board = Pc(engine, ram_size)
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
