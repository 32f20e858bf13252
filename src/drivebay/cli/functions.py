"""The PCI functions that go over vfio-user, with the drives that the command line names."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from typing import Any, Final

from drivebay.ata.device import Device
from drivebay.cli.controllers import ControllerConfig
from drivebay.cli.drives import Drive, open_drive
from drivebay.cli.nvme import open_namespace, serial_of
from drivebay.cli.sata import LEAST_PORTS
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.ide import PiixIde
from drivebay.controllers.nvme import Nvme, Subsystem
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine, Lookout
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
) -> tuple[PciFunction, list[Disk], list[Any]]:
    """The function, the disks that were opened for it, and whose commands must be at rest before
    they are closed. Raises `CliError` and `DiskOpenError`.
    """
    with ExitStack() as opened:
        disks: list[Disk] = []
        devices: list[Any] = []

        def device(drive: Drive) -> Device:
            if drive.passed is not None:
                devices.append(real := drive.passed.drive(engine, opened))
                return real
            disks.append(open_drive(drive))
            opened.callback(disks[-1].close)
            found = drive.device(disks[-1], engine)
            devices.append(found)
            return found

        function: PciFunction
        if controller.kind == "ide":
            function = piix = PiixIde(memory, (_nowhere(), _nowhere()), NATIVE_IDE, switchable=True)
            for ide in controller.ide:
                piix.attach(*ide.place, device(ide))
        elif controller.kind == "nvme":
            function = nvme = _nvme(controller, memory, engine)
            for namespace in controller.nvme:
                disks.append(open_namespace(namespace))
                opened.callback(disks[-1].close)
                nvme.add(namespace.place, disks[-1], lba_size=namespace.block)
            devices.append(nvme)
        else:
            ports = max(LEAST_PORTS, *(sata.place + 1 for sata in controller.sata))
            function = ahci = Ahci(memory, engine, ports=ports)
            for sata in controller.sata:
                ahci.attach(sata.place, device(sata))
        opened.pop_all()
    return function, disks, devices


def _nvme(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Nvme:
    """An NVMe controller; hosts tell subsystems apart by their names, so no two have the same."""
    own = hashlib.sha256(f"{controller.id} {controller.socket}".encode()).hexdigest()
    serial = serial_of(controller.nvme) or own[:20].upper()
    nqn = f"nqn.2014-08.org.nvmexpress:uuid:{own[:8]}-{own[8:12]}-5{own[13:16]}-8{own[17:20]}"
    subsystem = Subsystem(
        serial=serial,
        nqn=f"{nqn}-{own[20:32]}",
        create=_in_memory if controller.spare else None,
        capacity=controller.spare,
    )
    queues = controller.queues
    return Nvme(memory, engine, subsystem=subsystem, queues=queues, linger=Lookout(engine))


def _in_memory(size: int, sector_size: int) -> Disk:
    return RamDisk(size, sector_size=sector_size)


def _nowhere() -> Line:
    """IRQ 14 and 15 are of compatibility mode."""
    return Line(lambda _level: None)
