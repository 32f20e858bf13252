"""A q35 machine, as far as it goes without its disks: host bridge, LPC bridge, and the chips by
which tests find out about memory.

PCI 00:00.0 is the host bridge and 00:1f.0 the LPC bridge; 00:1f.2 is for the AHCI controller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from drivebay.disk.contract import Disk
from drivebay.machines.chips.clock import Clock
from drivebay.machines.chips.fw_cfg import FwCfg
from drivebay.machines.chips.i8254 import I8254
from drivebay.machines.chips.mc146818 import Mc146818
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.machine import Drive, MachineError, TrayMoved
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


class Q35:
    """The machine, with `ram_size` bytes of RAM."""

    def __init__(self, ram_size: int, engine: Engine) -> None:
        self.board = board = Board(engine, GuestMemory.of_size(ram_size))
        self.clock = Clock()
        self.tray_moved: TrayMoved = lambda _id, _opened: None
        self.drives: Mapping[str, Drive] = {}
        self.bus = PciBus(board.ports, board.mmio)
        self.bus.plug(0x00, 0, PciFunction(HOST_BRIDGE))
        self.bus.plug(0x1F, 0, PciFunction(LPC_BRIDGE))
        pit, fw_cfg = I8254(self.clock, board.line(0)), FwCfg(ram_size)
        mechanism = ConfigMechanism1(self.bus)
        board.ports.map(0x40, pit)
        board.ports.map(0x70, Mc146818(self.clock, ram_size))
        board.ports.map(0x510, fw_cfg)
        board.ports.map(0xCF8, mechanism)
        for part in (pit, fw_cfg, mechanism, self.bus):
            board.on_reset(part.reset)

    def plug(self, driver: str, id: str, disk: Disk | None, options: Mapping[str, object]) -> None:
        """There is no place for a drive yet. Raises `MachineError`."""
        raise MachineError(f"the q35 machine has no place for '{driver}' yet")

    def unplug(self, id: str, gone: Callable[[], None]) -> None:
        """There is nothing to take away. Raises `MachineError`."""
        raise MachineError(f"there is no device {id}")
