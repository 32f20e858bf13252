"""The PCI function of an NVMe controller (NVMe PCIe Transport 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drivebay.controllers.nvme.controller import Controller
from drivebay.controllers.nvme.namespace import Namespace
from drivebay.controllers.nvme.subsystem import Subsystem
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine, Linger
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Bar, BarKind, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import PciExpress, PowerManagement, add_capabilities
from drivebay.platform.pci_messages import MsixCapability

__all__ = ["NVME", "Nvme"]

REGISTERS, MSIX = 0, 4
NVME: Final = PciIdentity(0x4E58, 0x0001, 0x010802, interrupt_pin=1)
"""The one that SPDK's targets show over vfio-user: no driver has quirks for it, as they have for
QEMU's, and take away write zeroes.
"""


class Nvme(PciFunction):
    """An NVMe controller; its registers are at BAR0, its MSI-X table at BAR4.

    ::

        nvme = Nvme(board.memory, engine)
        nvme.add(1, disk)
        bus.plug(4, 0, nvme)

    It is the one controller of a subsystem of its own, or another one of `subsystem`. The rest is
    `Controller`'s. Raises `ValueError` for a number of queues that cannot be.
    """

    def __init__(
        self,
        memory: GuestMemory,
        engine: Engine,
        *,
        subsystem: Subsystem | None = None,
        queues: int = 64,
        stride: int = 0,
        doorbell_buffers: bool = True,
        identity: PciIdentity = NVME,
        linger: Linger = lambda _came: False,
        linger_long: Linger | None = None,
    ) -> None:
        self.msix = MsixCapability(min(queues + 1, 2048), MSIX)
        self.subsystem = subsystem or Subsystem()
        pin = Line(self._pin_changed)
        self.controller = Controller(
            self.subsystem,
            memory,
            engine,
            self.msix,
            pin,
            queues=queues,
            stride=stride,
            doorbell_buffers=doorbell_buffers,
            linger=linger,
            linger_long=linger_long,
        )
        self.controller.vendor = identity.vendor
        self.controller.subsystem_vendor = identity.subsystem_vendor
        registers = Bar(BarKind.MEMORY64, self.controller.size, self.controller)
        super().__init__(identity, {REGISTERS: registers, MSIX: self.msix.whole_bar()})
        add_capabilities(self, [PowerManagement(), self.msix, PciExpress()])
        self.command_changed()

    def add(self, nsid: int, disk: Disk, *, lba_size: int | None = None) -> Namespace:
        """A namespace with `disk`, at any time. Raises `ValueError`."""
        return self.subsystem.add(nsid, disk, lba_size=lba_size)

    def remove(self, nsid: int) -> Disk:
        """Take a namespace away, at any time; returns its disk. Raises `KeyError`."""
        return self.subsystem.remove(nsid)

    def _pin_changed(self, level: bool) -> None:
        self.intx.set(level)

    def command_changed(self) -> None:
        """Bus mastering goes on or off."""
        self.controller.master(self.bus_master)

    @property
    def at_rest(self) -> bool:
        """Whether no command is under way."""
        return self.controller.at_rest

    def hold(self, held: bool) -> None:
        """While it is held no command is taken: those that come are there when it is let go."""
        self.controller.worker.hold(held)

    def reset(self) -> None:
        """Power on, or a function level reset."""
        self.controller.reset()
        super().reset()
        self.msix.reset()

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on."""
        return {**super().save(), "msix": self.msix.save(), "nvme": self.controller.save()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it is of another controller."""
        super().restore(state)
        self.msix.restore(state["msix"])
        self.controller.restore(state["nvme"])
