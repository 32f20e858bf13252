"""The driver of the adapter: it finds the ports, and is told of interrupts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from drivebay.controllers.ahci.registers import BOHC, GHC, GenericRegisters
from drivebay.drivers.ahci.disk import AhciCd, AhciDisk
from drivebay.drivers.ahci.errors import AhciTimeout
from drivebay.drivers.ahci.port import AhciPort
from drivebay.drivers.arena import Arena
from drivebay.drivers.pci import Mmio

__all__ = ["AhciDriver"]

AT: Final = {name: at.offset for name, at in GenericRegisters.registers.items()}


class AhciDriver:
    """A driver of the registers at `base`. It resets the adapter, and brings each port up that has
    a drive.

    `poll` is called while something is awaited, at most `patience` times. `raised` says whether the
    interrupt line is up; without it the driver polls the ports' registers.
    """

    def __init__(
        self,
        mmio: Mmio,
        base: int,
        arena: Arena,
        *,
        poll: Callable[[], None],
        raised: Callable[[], bool] | None = None,
        patience: int = 10_000,
    ) -> None:
        self.mmio, self.base, self.arena = mmio, base, arena
        self.poll, self.raised, self.patience = poll, raised, patience
        self.take_over()
        self.reset()
        self.capabilities = self.get("CAP")
        implemented = self.get("PI")
        self.ports = {
            number: AhciPort(self, number) for number in range(32) if implemented >> number & 1
        }
        for port in self.ports.values():
            port.bring_up()

    def get(self, name: str) -> int:
        """A generic register."""
        return self.mmio.read(self.base + AT[name], 4)

    def put(self, name: str, value: int) -> None:
        """Write one."""
        self.mmio.write(self.base + AT[name], 4, value)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until `condition` holds. Raises `AhciTimeout`."""
        for _ in range(self.patience):
            if condition():
                return
            self.poll()
        raise AhciTimeout(what)

    def take_over(self) -> None:
        """BIOS/OS handoff (section 10.6.3)."""
        self.put("BOHC", self.get("BOHC") | BOHC.OOS)
        self.wait(lambda: not self.get("BOHC") & BOHC.BOS, "the firmware keeps the adapter")

    def reset(self) -> None:
        """Reset the adapter; AHCI on, and interrupts if there is somebody to tell of them."""
        self.put("GHC", GHC.of(AE=1, HR=1))
        self.wait(lambda: not self.get("GHC") & GHC.HR, "HBA reset")
        self.put("GHC", GHC.of(AE=1, IE=self.raised is not None))

    def disk(self, number: int) -> AhciDisk:
        """The disk at port `number`."""
        return AhciDisk(self.ports[number])

    def cd(self, number: int) -> AhciCd:
        """The packet device there."""
        return AhciCd(self.ports[number])
