"""The AHCI function of an ICH9: an adapter behind PCI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drivebay.ata.device import Device
from drivebay.controllers.ahci.hba import Hba
from drivebay.controllers.ahci.registers import MAP, AhciConfig
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import Bar, BarKind, PciFunction, PciIdentity
from drivebay.platform.pci_capabilities import add_capabilities
from drivebay.platform.pci_messages import MsiCapability

__all__ = ["ICH9_AHCI", "Ahci"]

ABAR: Final = 5
MSI_AT: Final = 0x80
AHCI_MODE: Final = 1
ICH9_AHCI: Final = PciIdentity(0x8086, 0x2922, 0x010601, revision=2, interrupt_pin=1)


class Ahci(PciFunction):
    """An AHCI controller with `ports` ports, 1 to 32; its registers are at BAR5.

    ::

        ahci = Ahci(board.memory, engine)
        ahci.attach(0, AtaDisk(disk, engine))
        bus.plug(0x1F, 2, ahci)

    With `staggered`, drives spin up when the guest says so (CAP.SSS). Raises `ValueError` for a
    number of ports that cannot be.
    """

    registers = AhciConfig

    def __init__(
        self,
        memory: GuestMemory,
        engine: Engine,
        *,
        ports: int = 6,
        staggered: bool = False,
        identity: PciIdentity = ICH9_AHCI,
    ) -> None:
        self.msi = MsiCapability()
        self.hba = Hba(memory, engine, self._interrupt, ports=ports, staggered=staggered)
        super().__init__(identity, {ABAR: Bar(BarKind.MEMORY32, self.hba.size, self.hba)})
        add_capabilities(self, [self.msi], at=MSI_AT)
        enabled = (1 << ports) - 1 & 0x3F
        self.declare(AhciConfig.MAP.offset, 1, MAP.of(SMS=AHCI_MODE))
        self.declare(AhciConfig.PCS.offset, 2, enabled, writable=enabled)
        self.command_changed()

    def attach(self, port: int, drive: Device) -> None:
        """Plug `drive` into `port`. Raises `ValueError` if one is there, `IndexError` if there is
        no such port.
        """
        self.hba.ports[port].attach(drive)

    def detach(self, port: int) -> Device | None:
        """Pull a drive; returns it."""
        return self.hba.ports[port].detach()

    def _interrupt(self, level: bool, news: bool) -> None:
        if self.msi.enabled:
            self.intx.set(False)
            if level and news:
                self.msi.notify(0)
        else:
            self.intx.set(level)

    def command_changed(self) -> None:
        """Bus mastering goes on or off."""
        self.hba.may_master = self.bus_master

    def reset(self) -> None:
        """Power on, the drives too."""
        super().reset()
        self.hba.reset(keep_addresses=False)

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on."""
        return {**super().save(), "hba": self.hba.save()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if it is of another controller."""
        super().restore(state)
        self.hba.restore(state["hba"])
