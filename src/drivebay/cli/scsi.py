"""``--scsi``: SCSI disks and DVD drives on a virtio SCSI host, over vhost-user; ``--scsi-pci``
has the host as a PCI function, over vfio-user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from drivebay.cli.drives import check_dvd, taken
from drivebay.cli.errors import CliError
from drivebay.cli.faults import FaultDesk
from drivebay.cli.functions import Built, FunctionServer, Inside
from drivebay.cli.functions import qemu as function_arguments
from drivebay.cli.kind import ControllerConfig, Kind, Options, Served
from drivebay.cli.places import Places
from drivebay.cli.virtio_blk import Rings, chardev, function_of, ring_states, rings
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    import socket

    from drivebay.controllers.virtio.scsi import ScsiDevice
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.messages import QueueState
    from drivebay.hosts.control.slot import Slot
    from drivebay.lab.dialects import Dialect
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory
    from drivebay.scsi.server import DeviceServer
    from drivebay.scsi.target import Target

__all__ = ["KIND", "PCI", "ScsiUnit", "attach", "build", "open_target", "place"]

MOST_LUNS: Final = 1 << 14
PLATE: Final = {"serial": 252, "vendor": 8, "product": 16}
"""ASCII characters that there is room for, SPC-4 sections 6.6.2 and 7.8.15."""


@dataclass(frozen=True)
class ScsiUnit:
    """A disk to be a logical unit; `lun` is None where any will do."""

    attachment: Attachment
    read_only: bool = False
    dvd: bool = False
    lun: int | None = None
    serial: str | None = None
    vendor: str | None = None
    product: str | None = None

    @property
    def place(self) -> int:
        """The LUN, once `place` has given it one."""
        assert self.lun is not None
        return self.lun


def attach(attachment: Attachment, options: Options) -> ScsiUnit:
    """The unit that checked options describe. Raises `CliError`."""
    text = attachment.text
    lun = options.get("lun")
    if lun is not None and not (str(lun).isdecimal() and int(lun) < MOST_LUNS):
        raise CliError(f"{text}: lun={lun}", f"a number from 0 to {MOST_LUNS - 1}")
    plate: dict[str, str] = {}
    for name, room in PLATE.items():
        if name not in options:
            continue
        plate[name] = str(options[name])
        if not (plate[name].isascii() and plate[name].isprintable() and len(plate[name]) <= room):
            raise CliError(f"{text}: {name}={plate[name]}", f"{room} ASCII characters at most")
    return ScsiUnit(
        attachment,
        bool(options.get("ro")),
        bool(options.get("dvd")),
        None if lun is None else int(lun),
        **plate,
    )


def place(units: Iterable[ScsiUnit]) -> list[ScsiUnit]:
    """The units by LUN; those without one get the first that is free.

    Raises `CliError` if two want the same one, or there are more than a target has.
    """
    units = sorted(units, key=lambda unit: unit.lun is None)  # those who choose come first
    if len(units) > MOST_LUNS:
        raise CliError(f"{len(units)} units", f"a target has {MOST_LUNS}")
    placed: dict[int, ScsiUnit] = {}
    free = 0
    for unit in units:
        while free in placed:
            free += 1
        lun = free if unit.lun is None else unit.lun
        if lun in placed:
            raise taken(unit, f"lun {lun}", [placed[lun]], [f"lun={free}"])
        placed[lun] = replace(unit, lun=lun)
    return [placed[lun] for lun in sorted(placed)]


def open_target(controller: ControllerConfig, engine: Engine) -> tuple[Target, Places[ScsiUnit]]:
    """A target and its open disks. Raises `CliError` and `DiskOpenError`."""
    from drivebay.hosts.control.slot import Slot
    from drivebay.scsi.dvd import Dvd
    from drivebay.scsi.target import Target

    target = Target(engine)

    def open_unit(unit: ScsiUnit) -> Disk:
        return unit.attachment.disk.open(unit.read_only or unit.dvd)

    def put(unit: ScsiUnit, disk: Disk | None) -> Slot:
        assert disk is not None
        server = _server_of(unit, disk, controller)
        target.add(unit.place, server)

        def pull() -> Callable[[], bool]:
            ended: list[bool] = []
            target.remove(unit.place, lambda: ended.append(True))
            return lambda: bool(ended)

        dvd = server if isinstance(server, Dvd) else None
        return Slot(disk, unit.attachment.disk.text, dvd=dvd, pull=pull)

    places = Places(open_unit, put, lambda unit: str(unit.place), hot=True)
    places.devices.append(target)
    places.fill(controller.disks)
    return target, places


def open_device(
    controller: ControllerConfig, engine: Engine
) -> tuple[ScsiDevice, Places[ScsiUnit]]:
    """The host around one. Raises `CliError` and `DiskOpenError`."""
    from drivebay.controllers.virtio.scsi import ScsiDevice

    said: Rings = controller.settings
    target, places = open_target(controller, engine)
    return ScsiDevice(target, engine, **asdict(said)), places


def serve(controller: ControllerConfig, engine: Engine, listener: socket.socket) -> Served:
    """Open the disks and serve them."""
    from drivebay.hosts.vhost_user.server import VhostUserServer

    device, places = open_device(controller, engine)
    return Served(
        VhostUserServer(device, engine, listener, owned=False, config=False),
        places,
        faults=FaultDesk(controller, lambda: {"": device.target}, places, engine),
        parts=lambda: {"": device.target},
        queues=lambda: _queues(device),
        hold=device.hold,
    )


def build(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Built:
    """The host as a PCI function."""
    device, places = open_device(controller, engine)
    return function_of(device, memory, places), places


def _queues(device: ScsiDevice) -> Iterator[QueueState]:
    """Its rings, and the tasks of each unit."""
    from drivebay.hosts.control.messages import QueueState

    yield from ring_states(device)
    for lun in device.target.luns:
        yield QueueState(f"lun {lun}", device.target.task_set(lun))


def dialect() -> Dialect:
    """What reads its commands."""
    from drivebay.lab.dialects import scsi

    return scsi


def _server_of(unit: ScsiUnit, disk: Disk, controller: ControllerConfig) -> DeviceServer:
    """The logical unit around its open disk. Raises `CliError` for one that it cannot hold.

    Guests tell units apart by their names, so no two have the same unless they are the same disk;
    and reservations tell initiators apart by theirs, so ours is that of its socket.
    """
    from drivebay.disk.errors import InvalidInput
    from drivebay.scsi.disk import ScsiDisk
    from drivebay.scsi.disk.reservations import transport_id
    from drivebay.scsi.dvd import Dvd

    path = f"{controller.id} {controller.socket}"
    initiator = transport_id(hashlib.sha256(path.encode()).digest()[:8])
    own = hashlib.sha256(f"{path} {unit.place}".encode()).hexdigest()[:20].upper()
    plate = {name: text for name in PLATE if (text := getattr(unit, name)) is not None}
    try:
        if unit.dvd:
            check_dvd(unit.attachment.disk.text, disk)
            return Dvd(disk, **{"serial": own, **plate})
        if disk.disk_id is None:
            plate = {"serial": own, **plate}
        return ScsiDisk(disk, **plate, initiator=initiator)
    except InvalidInput as error:
        raise CliError(f"{unit.attachment.disk.text}: {error}") from None


def qemu(controller: ControllerConfig, socket: str) -> list[str]:
    """QEMU's arguments for a controller."""
    said: Rings = controller.settings
    return [
        *chardev(controller, socket),
        "-device",
        f"vhost-user-scsi-pci,chardev={controller.id},num_queues={said.queues}"
        f",virtqueue_size={said.queue_size}",
    ]


KIND: Final = Kind(
    name="scsi",
    form="SPEC[,ro][,lun=N][,dvd][,serial=S][,vendor=V][,product=P][,socket=PATH]",
    help="A SCSI disk or DVD drive on a virtio SCSI host.",
    attach=attach,
    place=place,
    at="lun={}".format,
    settings=rings,
    serve=serve,
    dialect=dialect,
    qemu=qemu,
    keys=("queues", "queue-size"),
    disk_flags=("ro", "dvd"),
    disk_keys=("lun", *PLATE),
)

PCI: Final = replace(
    KIND,
    name="scsi-pci",
    help="A SCSI disk or DVD drive on a virtio SCSI host that is a PCI function of ours.",
    serve=FunctionServer(
        build,
        inside=Inside(
            hold=lambda function, _places, held: function.device.hold(held),
            parts=lambda function, _places: {"": function.device.target},
            queues=lambda function: _queues(function.device),
        ),
    ),
    qemu=function_arguments,
    vfio_user=True,
)
