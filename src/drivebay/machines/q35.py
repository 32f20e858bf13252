"""A q35 machine for device tests: host bridge, LPC bridge, the AHCI controller, and the chips by
which tests find out about memory.

PCI 00:00.0 is the host bridge, 00:1f.0 the LPC bridge, 00:1f.2 the AHCI controller.
"""

from __future__ import annotations

from typing import Final

from drivebay.controllers.ahci import Ahci
from drivebay.machines.ata import AtaBay
from drivebay.machines.chips.clock import Clock
from drivebay.machines.chips.fw_cfg import FwCfg
from drivebay.machines.chips.i8254 import I8254
from drivebay.machines.chips.mc146818 import Mc146818
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import ConfigMechanism1, PciBus, PciFunction, PciIdentity

__all__ = ["Q35"]

HOST_BRIDGE: Final = PciIdentity(
    vendor=0x8086, device=0x29C0, class_code=0x060000, subsystem_vendor=0x1AF4, subsystem=0x1100
)
LPC_BRIDGE: Final = PciIdentity(
    vendor=0x8086,
    device=0x2918,
    class_code=0x060100,
    revision=2,
    subsystem_vendor=0x1AF4,
    subsystem=0x1100,
)
PORTS: Final = 6
SOUTH: Final = 0x1F
"""The slot of the south bridge's functions."""
FIRST_LINE: Final = 16
"""Where its INTA# goes, unless the guest changes D31IR: to PIRQA#, and so to this input of the
I/O APIC (ICH9 datasheet, section 10.1.49).
"""


class Q35(AtaBay[int]):
    """The machine, with `ram_size` bytes of RAM; `ahci` has six ports, the buses ide.0 to ide.5."""

    def __init__(self, ram_size: int, engine: Engine) -> None:
        self.board = board = Board(engine, GuestMemory.of_size(ram_size))
        self.clock = Clock()
        self.bus = PciBus(
            board.ports,
            board.mmio,
            lambda line, level: board.line(FIRST_LINE + (line - SOUTH) % 4).set(level),
        )
        self.ahci = ahci = Ahci(board.memory, engine, ports=PORTS)
        self.bus.plug(0x00, 0, PciFunction(HOST_BRIDGE))
        self.bus.plug(SOUTH, 0, PciFunction(LPC_BRIDGE))
        self.bus.plug(SOUTH, 2, ahci)
        pit, fw_cfg = I8254(self.clock, board.line(0)), FwCfg(ram_size)
        mechanism = ConfigMechanism1(self.bus)
        board.ports.map(0x40, pit)
        board.ports.map(0x70, Mc146818(self.clock, ram_size))
        board.ports.map(0x510, fw_cfg)
        board.ports.map(0xCF8, mechanism)
        for part in (pit, fw_cfg, mechanism, self.bus):
            board.on_reset(part.reset)
        super().__init__(
            "q35",
            engine,
            {(f"ide.{port}", 0): port for port in range(PORTS)},
            attach=ahci.attach,
            detach=ahci.detach,
        )
