"""``--virtio-blk``: a virtio block device for a disk, over vhost-user; ``--virtio-blk-pci``
is one as a PCI function, over vfio-user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from drivebay.cli.errors import CliError
from drivebay.cli.faults import FaultDesk
from drivebay.cli.functions import Built, FunctionServer, Inside
from drivebay.cli.functions import qemu as function_arguments
from drivebay.cli.kind import ControllerConfig, Kind, Options, Served, number
from drivebay.cli.places import Places
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    import socket

    from drivebay.controllers.virtio.block import BlockDevice
    from drivebay.controllers.virtio.device import RingDevice
    from drivebay.controllers.virtio.pci import VirtioPci
    from drivebay.controllers.virtio.scsi import ScsiDevice
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.messages import QueueState
    from drivebay.hosts.control.slot import Slot
    from drivebay.lab.dialects import Dialect
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.pci import PciFunction

__all__ = [
    "KIND",
    "PCI",
    "DiskConfig",
    "Rings",
    "build",
    "chardev",
    "function_of",
    "ring_states",
    "rings",
]

SERIAL_ROOM: Final = 20


@dataclass(frozen=True)
class DiskConfig:
    """A disk to attach: what to open, and how."""

    attachment: Attachment
    read_only: bool = False
    serial: str | None = None


@dataclass(frozen=True)
class Rings:
    """What was said of a controller's queues."""

    queues: int = 1
    queue_size: int = 256
    packed: bool = False
    """Offer packed rings; not by default, as User-Mode Linux takes them and cannot say where they
    start."""


def attach(attachment: Attachment, options: Options) -> DiskConfig:
    """The disk that checked options describe. Raises `CliError`."""
    serial = options.get("serial")
    if serial and len(str(serial).encode()) > SERIAL_ROOM:
        raise CliError(f"serial {serial!r} is too long", f"{SERIAL_ROOM} bytes at most")
    return DiskConfig(attachment, bool(options.get("ro")), str(serial) if serial else None)


def place(disks: Iterable[DiskConfig]) -> list[DiskConfig]:
    """The one disk. Raises `CliError`."""
    disks = list(disks)
    if len(disks) > 1:
        raise CliError(f"{len(disks)} disks", "a virtio-blk controller has one")
    return disks


def rings(options: Options, text: str) -> Rings:
    """What checked options of a controller say. Raises `CliError`."""
    size = number(options, "queue-size", 4, 1024, text, Rings.queue_size)
    if size & (size - 1):
        raise CliError(f"{text}: queue-size={size}", "a power of two from 4 to 1024")
    return Rings(number(options, "queues", 1, 64, text, 1), size, bool(options.get("packed")))


def open_device(
    controller: ControllerConfig, engine: Engine
) -> tuple[BlockDevice, Places[DiskConfig]]:
    """The device around its open disk. Raises `CliError` and `DiskOpenError`."""
    from drivebay.controllers.virtio.block import BlockDevice
    from drivebay.controllers.virtio.registers import SECTOR_SIZE
    from drivebay.hosts.control.slot import Slot

    found: list[BlockDevice] = []

    def put(wanted: DiskConfig, disk: Disk | None) -> Slot:
        assert disk is not None
        found.append(BlockDevice(disk, engine, serial=wanted.serial, **asdict(controller.settings)))
        return Slot(disk, wanted.attachment.disk.text, block=SECTOR_SIZE)

    places = Places(lambda disk: disk.attachment.disk.open(disk.read_only), put, lambda _: "")
    places.fill(controller.disks)
    [device] = found
    return device, places


def serve(controller: ControllerConfig, engine: Engine, listener: socket.socket) -> Served:
    """Open the disk and serve it."""
    from drivebay.hosts.vhost_user.server import VhostUserServer

    device, places = open_device(controller, engine)
    return Served(
        VhostUserServer(device, engine, listener, owned=False),
        places,
        device.statistics.as_dict,
        FaultDesk(controller, lambda: {"": device}, places, engine),
        parts=lambda: {"": device},
        queues=lambda: ring_states(device),
        hold=device.hold,
    )


def build(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Built:
    """The device as a PCI function."""
    device, places = open_device(controller, engine)
    return function_of(device, memory, places), places


def function_of(
    device: BlockDevice | ScsiDevice, memory: GuestMemory, places: Places[Any]
) -> PciFunction:
    """The function with a device, which comes to rest before the disks of `places` are closed."""
    from drivebay.controllers.virtio.pci import VirtioPci

    places.devices.append(device)
    return VirtioPci(device, memory)


def ring_states(device: RingDevice) -> Iterator[QueueState]:
    """The rings that a driver has set up."""
    from drivebay.hosts.control.messages import QueueState

    for index, state in device.queue_states.items():
        yield QueueState(f"ring {index}", state)


def dialect() -> Dialect:
    """What reads its requests."""
    from drivebay.lab.dialects import virtio

    return virtio


def chardev(controller: ControllerConfig, socket: str) -> list[str]:
    """QEMU's way to a vhost-user socket. QEMU before 9.2 counts in seconds: ``reconnect=1``."""
    path = socket.replace(",", ",,")
    return ["-chardev", f"socket,id={controller.id},path={path},reconnect-ms=100"]


def qemu(controller: ControllerConfig, socket: str) -> list[str]:
    """QEMU's arguments for a controller."""
    said: Rings = controller.settings
    packed = ",packed=on" if said.packed else ""
    return [
        *chardev(controller, socket),
        "-device",
        f"vhost-user-blk-pci,chardev={controller.id},num-queues={said.queues}"
        f",queue-size={said.queue_size}{packed}",
    ]


def cloud_hypervisor(controller: ControllerConfig, socket: str) -> list[str]:
    """cloud-hypervisor's arguments for a controller."""
    said: Rings = controller.settings
    return [
        "--memory",
        "size=1G,shared=on",
        "--disk",
        f"vhost_user=true,socket={socket},num_queues={said.queues},queue_size={said.queue_size}",
    ]


def _statistics(function: VirtioPci) -> dict[str, int]:
    device: Any = function.device
    found: dict[str, int] = device.statistics.as_dict()
    return found


INSIDE: Final = Inside(
    hold=lambda function, _places, held: function.device.hold(held),
    parts=lambda function, _places: {"": function.device},
    queues=lambda function: ring_states(function.device),
)
"""What is in a function."""


KIND: Final = Kind(
    name="virtio-blk",
    form="SPEC[,ro][,socket=PATH][,serial=S][,queues=N][,queue-size=N][,packed][,id=NAME]",
    help="A virtio block device for a disk such as mem:64M or file:disk.img.",
    attach=attach,
    place=place,
    settings=rings,
    serve=serve,
    dialect=dialect,
    qemu=qemu,
    cloud_hypervisor=cloud_hypervisor,
    flags=("packed",),
    keys=("queues", "queue-size"),
    disk_flags=("ro",),
    disk_keys=("serial",),
    shared=False,
)

PCI: Final = replace(
    KIND,
    name="virtio-blk-pci",
    help="A virtio block device that is a PCI function of ours.",
    serve=FunctionServer(build, _statistics, inside=INSIDE),
    qemu=function_arguments,
    cloud_hypervisor=None,
    vfio_user=True,
)
