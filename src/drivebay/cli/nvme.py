"""What the command line says of the namespaces of an NVMe controller: which id, what blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from drivebay.cli.drives import taken
from drivebay.cli.errors import CliError
from drivebay.cli.functions import Built, FunctionServer, Inside, qemu
from drivebay.cli.kind import ControllerConfig, Kind, Options, number
from drivebay.cli.memory import parse_memory
from drivebay.cli.places import Places
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    from drivebay.controllers.nvme import Nvme
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.bay import Health
    from drivebay.hosts.control.messages import QueueState
    from drivebay.hosts.control.slot import Slot
    from drivebay.lab.dialects import Dialect
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.observer import Observed

__all__ = ["KIND", "NvmeDisk", "NvmeSettings"]

NVME_FLAGS: Final = ("ro",)
NVME_KEYS: Final = ("nsid", "block", "serial")
MOST_NAMESPACES: Final = 256
BLOCKS: Final = ("512", "4096")
SERIAL_ROOM: Final = 20
QUEUES: Final = 64


@dataclass(frozen=True)
class NvmeDisk:
    """A disk to be a namespace; `nsid` is None where any will do, `block` where the disk says."""

    attachment: Attachment
    read_only: bool = False
    nsid: int | None = None
    block: int | None = None
    serial: str | None = None
    """Of the subsystem, which all its namespaces share."""

    @property
    def place(self) -> int:
        """The namespace id, once `place` has given it one."""
        assert self.nsid is not None
        return self.nsid


def nvme_disk(attachment: Attachment, options: Mapping[str, str | bool]) -> NvmeDisk:
    """The namespace that checked options describe. Raises `CliError`."""
    text = attachment.text
    nsid, block, serial = (options.get(key) for key in NVME_KEYS)
    if nsid is not None and not (str(nsid).isdecimal() and 0 < int(nsid) <= MOST_NAMESPACES):
        raise CliError(f"{text}: nsid={nsid}", f"a number from 1 to {MOST_NAMESPACES}")
    if block is not None and block not in BLOCKS:
        raise CliError(f"{text}: block={block}", f"bytes of a block: {' or '.join(BLOCKS)}")
    if serial is not None and not (str(serial).isascii() and len(str(serial)) <= SERIAL_ROOM):
        raise CliError(f"{text}: serial={serial}", f"{SERIAL_ROOM} ASCII characters at most")
    return NvmeDisk(
        attachment,
        bool(options.get("ro")),
        None if nsid is None else int(nsid),
        None if block is None else int(block),
        None if serial is None else str(serial),
    )


def place(disks: Iterable[NvmeDisk]) -> list[NvmeDisk]:
    """The namespaces by id; those without one get the first that is free.

    Raises `CliError` if two want the same id, there are more than a subsystem has, or they do not
    agree on the serial number.
    """
    disks = sorted(disks, key=lambda disk: disk.nsid is None)  # those who choose come first
    if len(disks) > MOST_NAMESPACES:
        raise CliError(f"{len(disks)} namespaces", f"a subsystem has {MOST_NAMESPACES}")
    serials = {disk.serial for disk in disks if disk.serial is not None}
    if len(serials) > 1:
        raise CliError(
            f"serials {' and '.join(sorted(serials))}", "the namespaces of a controller share one"
        )
    placed: dict[int, NvmeDisk] = {}
    for disk in disks:
        free = next(nsid for nsid in range(1, MOST_NAMESPACES + 2) if nsid not in placed)
        nsid = free if disk.nsid is None else disk.nsid
        if nsid in placed:
            raise taken(disk, f"nsid {nsid}", [placed[nsid]], [f"nsid={free}"])
        placed[nsid] = replace(disk, nsid=nsid)
    return [placed[nsid] for nsid in sorted(placed)]


def serial_of(disks: Iterable[NvmeDisk]) -> str | None:
    """The serial number that was said, if one was."""
    return next((disk.serial for disk in disks if disk.serial is not None), None)


def open_namespace(wanted: NvmeDisk) -> Disk:
    """Open its disk. Raises `CliError` for one that has no such blocks, and `DiskOpenError`."""
    disk = wanted.attachment.disk.open(wanted.read_only)
    if wanted.block is not None and wanted.block < disk.sector_size:
        text, size = wanted.attachment.disk.text, disk.sector_size
        disk.close()
        raise CliError(f"{text}: block={wanted.block}", f"the disk has sectors of {size} bytes")
    return disk


@dataclass(frozen=True)
class NvmeSettings:
    """What was said of the controller."""

    queues: int = QUEUES
    spare: int = 0
    """Bytes of memory of which hosts may make namespaces of their own."""


def settings(options: Options, text: str) -> NvmeSettings:
    """What checked options of a controller say. Raises `CliError`."""
    spare = options.get("spare")
    return NvmeSettings(
        number(options, "queues", 1, QUEUES, text, QUEUES),
        0 if spare is None else parse_memory(f"{text}: spare", str(spare)),
    )


def build(controller: ControllerConfig, memory: GuestMemory, engine: Engine) -> Built:
    """The controller with its namespaces, which may come and go. Hosts tell subsystems apart by
    their names, so no two have the same.
    """
    from drivebay.controllers.nvme import Nvme, Subsystem
    from drivebay.controllers.nvme.status import Status
    from drivebay.disk.backends.ram import RamDisk
    from drivebay.hosts.control.slot import Slot
    from drivebay.platform.engine import LONG_MOMENT, Lookout

    def in_memory(size: int, sector_size: int) -> Disk:
        return RamDisk(size, sector_size=sector_size)

    said: NvmeSettings = controller.settings
    own = hashlib.sha256(f"{controller.id} {controller.socket}".encode()).hexdigest()
    nqn = f"nqn.2014-08.org.nvmexpress:uuid:{own[:8]}-{own[8:12]}-5{own[13:16]}-8{own[17:20]}"
    subsystem = Subsystem(
        serial=serial_of(controller.disks) or own[:20].upper(),
        nqn=f"{nqn}-{own[20:32]}",
        create=in_memory if said.spare else None,
        capacity=said.spare,
    )
    nvme = Nvme(
        memory,
        engine,
        subsystem=subsystem,
        queues=said.queues,
        linger=Lookout(engine),
        linger_long=Lookout(engine, LONG_MOMENT),
    )

    def put(wanted: NvmeDisk, disk: Disk | None) -> Slot:
        assert disk is not None
        namespace = nvme.add(wanted.place, disk, lba_size=wanted.block)

        def pull() -> Callable[[], bool]:
            nvme.remove(wanted.place)
            return lambda: (
                not subsystem.in_use(wanted.place)
                and namespace.busy in (None, Status.SANITIZE_FAILED)
            )

        block = 1 << namespace.lba_shift
        return Slot(disk, wanted.attachment.disk.text, pull=pull, block=block)

    places = Places(open_namespace, put, lambda wanted: str(wanted.place), hot=True)
    places.devices.append(nvme)
    return nvme, places.fill(controller.disks)


def statistics(nvme: Nvme) -> dict[str, int]:
    """What the controller has done."""
    found = nvme.controller.statistics.save()
    return {name.replace("_", "-"): count for name, count in found.items()}


def parts(nvme: Nvme, _places: Places[Any]) -> Mapping[str, Observed]:
    """The controller takes the commands of all namespaces."""
    return {"": nvme.controller.worker}


def queues(nvme: Nvme) -> Iterator[QueueState]:
    """Its submission and completion queues."""
    from drivebay.hosts.control.messages import QueueState

    for sq in nvme.controller.live_sqs:
        yield QueueState(f"sq {sq.id}", sq.state)
    for cq in nvme.controller.live_cqs:
        yield QueueState(f"cq {cq.id}", cq.state)


def health(nvme: Nvme, _places: Places[Any]) -> Mapping[str, Health]:
    """The controller's SMART log is of all namespaces."""
    from drivebay.cli.health import NvmeHealth

    return {"": NvmeHealth(nvme.controller)}


def dialect() -> Dialect:
    """What reads its commands."""
    from drivebay.lab.dialects import nvme

    return nvme


INSIDE: Final = Inside(lambda nvme, _places, held: nvme.hold(held), parts, health, queues)


KIND: Final = Kind(
    name="nvme",
    form="SPEC[,ro][,nsid=N][,block=512|4096][,serial=S][,socket=PATH]",
    help="A namespace of an NVMe controller.",
    attach=nvme_disk,
    place=place,
    at="nsid={}".format,
    settings=settings,
    may_be_empty=lambda said: said.spare > 0,
    serve=FunctionServer(build, statistics, INSIDE),
    dialect=dialect,
    qemu=qemu,
    keys=("queues", "spare"),
    disk_flags=NVME_FLAGS,
    disk_keys=NVME_KEYS,
    vfio_user=True,
)
