"""What the command line says of the drives of an AHCI controller: which port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from drivebay.cli.drives import DRIVE_FLAGS, DRIVE_KEYS, Drive, check_names, said_of, taken
from drivebay.cli.errors import CliError
from drivebay.cli.functions import (
    Built,
    FunctionServer,
    Inside,
    ata_dialect,
    ata_hold,
    ata_places,
    check_drives,
    qemu,
)
from drivebay.cli.kind import ControllerConfig, Kind
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.ata.device import Device
    from drivebay.controllers.ahci import Ahci
    from drivebay.hosts.control.messages import QueueState
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory

__all__ = ["KIND", "SataDrive"]

SATA_FLAGS: Final = DRIVE_FLAGS
SATA_KEYS: Final = ("port", *DRIVE_KEYS)
LEAST_PORTS: Final = 6
"""As many as an ICH9 has; an adapter has more if its drives want them."""
MOST_PORTS: Final = 32


@dataclass(frozen=True)
class SataDrive(Drive):
    """A drive to plug into a port; `port` is None where any will do."""

    port: int | None = None

    @property
    def place(self) -> int:
        """The port, once `place` has given it one."""
        assert self.port is not None
        return self.port

    @property
    def name(self) -> str:
        """Its id, or what it is and where: ``sata0``, ``sata1``."""
        return self.id or f"sata{self.place}"


def sata_drive(attachment: Attachment, options: Mapping[str, str | bool]) -> SataDrive:
    """The drive that checked options describe. Raises `CliError` or `SpecError`."""
    port = options.get("port")
    if port is not None and not (str(port).isdecimal() and int(port) < MOST_PORTS):
        raise CliError(f"{attachment.text}: port={port}", f"a number from 0 to {MOST_PORTS - 1}")
    return SataDrive(**said_of(attachment, options), port=None if port is None else int(str(port)))


def place(drives: Iterable[SataDrive]) -> list[SataDrive]:
    """The drives by port; those without one get the first that is free.

    Raises `CliError` if two want the same port, or there are more drives than ports.
    """
    drives = sorted(drives, key=lambda drive: drive.port is None)  # those who choose come first
    if len(drives) > MOST_PORTS:
        raise CliError(f"{len(drives)} SATA drives", f"an adapter has {MOST_PORTS} ports")
    placed: dict[int, SataDrive] = {}
    for drive in drives:
        free = [port for port in range(MOST_PORTS) if port not in placed]
        port = free[0] if drive.port is None else drive.port
        if port in placed:
            raise taken(drive, f"port {port}", [placed[port]], [f"port={free[0]}"])
        placed[port] = replace(drive, port=port)
    found = [placed[port] for port in sorted(placed)]
    check_names(found)
    return found


def build(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Built:
    """The adapter with its drives, which may be pulled, and others plugged in."""
    from drivebay.controllers.ahci import Ahci

    ports = max(LEAST_PORTS, *(drive.place + 1 for drive in controller.disks))
    ahci = Ahci(memory, engine, ports=ports)

    def attach(drive: SataDrive, device: Device) -> None:
        if drive.place >= ports:
            raise CliError(f"port {drive.place}", f"the adapter has {ports} ports, from 0 on")
        ahci.attach(drive.place, device)

    places = ata_places(
        attach,
        engine,
        lambda drive: str(drive.place),
        lambda drive: ahci.detach(drive.place),
    )
    return ahci, places.fill(controller.disks)


def queues(ahci: Ahci) -> Iterator[QueueState]:
    """The command lists of ports with drives."""
    from drivebay.hosts.control.messages import QueueState

    for port in ahci.hba.ports:
        if port.drive is not None:
            state = {"ci": port.ci, "sact": port.sact, "tfd": port.tfd, "is": port.interrupts}
            yield QueueState(f"port {port.number}", state)


KIND: Final = Kind(
    name="ahci",
    form="SPEC[,ro][,port=N][,dvd][,serial=S][,model=M][,firmware=F]"
    "[,id=NAME][,socket=PATH][,allow=CATEGORY+...][,dry-run]",
    help="A SATA drive on an AHCI controller.",
    attach=sata_drive,
    place=place,
    at="port={}".format,
    serve=FunctionServer(build, inside=Inside(ata_hold, queues=queues)),
    dialect=ata_dialect,
    check=check_drives,
    qemu=qemu,
    disk_flags=SATA_FLAGS,
    disk_keys=SATA_KEYS,
    vfio_user=True,
)
