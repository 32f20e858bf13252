"""The PCI functions that go over vfio-user, with the drives that the command line names."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

from drivebay.ata.device import Device
from drivebay.cli.controllers import ControllerConfig
from drivebay.cli.drives import Drive, open_drive
from drivebay.cli.sata import LEAST_PORTS
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.ide import PiixIde
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import PciFunction, PciIdentity

__all__ = ["NATIVE_IDE", "function_of"]

NATIVE_IDE: Final = PciIdentity(0x8086, 0x7111, 0x010185, revision=1)
"""A PIIX4 whose channels come up in native mode, as no function over vfio-user has ports 0x1F0 and
0x170: Linux gives an IDE function its BARs only if it says so when it is found. The chip could not,
but its drivers never ask the chip: `ata_piix` looks at the programming interface and works native
channels as any other, with DMA, where `ata_generic` would leave an Intel function alone, and any
unknown one in PIO. SeaBIOS knows no chips and takes what the programming interface says.
"""


def function_of(
    controller: ControllerConfig, memory: GuestMemory, engine: Engine
) -> tuple[PciFunction, list[Disk], list[Device]]:
    """The function, the disks that were opened for it, and its drives. Raises `CliError` and
    `DiskOpenError`.
    """
    with ExitStack() as opened:
        disks: list[Disk] = []
        devices: list[Device] = []

        def device(drive: Drive) -> Device:
            disks.append(open_drive(drive))
            opened.callback(disks[-1].close)
            devices.append(drive.device(disks[-1], engine))
            return devices[-1]

        function: PiixIde | Ahci
        if controller.kind == "ide":
            function = PiixIde(memory, (_nowhere(), _nowhere()), NATIVE_IDE, switchable=True)
            for ide in controller.ide:
                function.attach(*ide.place, device(ide))
        else:
            ports = max(LEAST_PORTS, *(sata.place + 1 for sata in controller.sata))
            function = Ahci(memory, engine, ports=ports)
            for sata in controller.sata:
                function.attach(sata.place, device(sata))
        opened.pop_all()
    return function, disks, devices


def _nowhere() -> Line:
    """IRQ 14 and 15 are of compatibility mode."""
    return Line(lambda _level: None)
