"""The PCI functions that go over vfio-user, with the drives that the command line names."""

from __future__ import annotations

from typing import Final

from drivebay.ata.device import Device
from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.cli.errors import CliError
from drivebay.cli.ide import IdeDrive, open_ide
from drivebay.controllers.ide import PiixIde
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.pci import PciIdentity
from drivebay.scsi.dvd import Dvd, PhysicalInterface

__all__ = ["NATIVE_IDE", "native_ide"]

NATIVE_IDE: Final = PciIdentity(0x8086, 0x7111, 0x010185, revision=1)
"""A PIIX4 whose channels come up in native mode, as no function over vfio-user has ports 0x1F0 and
0x170: Linux gives an IDE function its BARs only if it says so when it is found. The chip could not,
but its drivers never ask the chip: `ata_piix` looks at the programming interface and works native
channels as any other, with DMA, where `ata_generic` would leave an Intel function alone, and any
unknown one in PIO. SeaBIOS knows no chips and takes what the programming interface says.
"""


def native_ide(
    drives: list[IdeDrive], memory: GuestMemory, engine: Engine
) -> tuple[PiixIde, list[Disk]]:
    """An IDE function and the disks that were opened for it. Raises `CliError`, `DiskOpenError`."""
    function = PiixIde(memory, (_nowhere(), _nowhere()), NATIVE_IDE, switchable=True)
    disks: list[Disk] = []
    try:
        for drive in drives:
            disks.append(open_ide(drive))
            function.attach(*drive.place, _device(drive, disks[-1], engine))
    except BaseException:
        for disk in disks:
            disk.close()
        raise
    return function, disks


def _nowhere() -> Line:
    """IRQ 14 and 15 are of compatibility mode."""
    return Line(lambda _level: None)


def _device(drive: IdeDrive, disk: Disk, engine: Engine) -> Device:
    named = {"serial": drive.serial, "model": drive.model, "firmware": drive.firmware}
    plate = {name: text for name, text in named.items() if text is not None}
    try:
        if drive.dvd:
            return PacketDevice(Dvd(disk, interface=PhysicalInterface.ATAPI), engine, **plate)
        return AtaDisk(disk, engine, **plate)
    except InvalidInput as error:
        raise CliError(f"{drive.attachment.disk.text}: {error}") from None
