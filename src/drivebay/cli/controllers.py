"""What the command line says of controllers and their disks, before anything is opened.

``--controller KIND,id=NAME,...`` with ``--disk SPEC,on=NAME,...`` says all of it; a short option
such as ``--virtio-blk SPEC,...`` or ``--ide SPEC,...`` says both at once. `_KINDS` is what each
kind of controller and its disks can be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from string import ascii_lowercase
from typing import Any, Final

import click

from drivebay.cli import ide as ide_places
from drivebay.cli import nvme as nvme_places
from drivebay.cli import sata as sata_places
from drivebay.cli.drives import Attached, Drive
from drivebay.cli.errors import CliError
from drivebay.cli.ide import IDE_FLAGS, IDE_KEYS, IdeDrive, ide_drive
from drivebay.cli.memory import parse_memory
from drivebay.cli.nvme import NVME_FLAGS, NVME_KEYS, NvmeDisk, nvme_disk
from drivebay.cli.sata import SATA_FLAGS, SATA_KEYS, SataDrive, sata_drive
from drivebay.disk.spec import Attachment, parse_attachment

__all__ = [
    "ControllerConfig",
    "DiskConfig",
    "check_servable",
    "controller_options",
    "ide_drives",
    "parse_controllers",
]

Options = dict[str, str | bool]


@dataclass(frozen=True)
class DiskConfig:
    """A disk to attach: what to open, and how."""

    attachment: Attachment
    read_only: bool = False
    serial: str | None = None


@dataclass
class ControllerConfig:
    """A controller and its disks: of a virtio-blk controller one; of an IDE controller up to four
    drives, of an AHCI controller up to 32, of an NVMe controller up to 256 namespaces.
    """

    kind: str
    id: str
    socket: str | None = None
    queues: int = 1
    queue_size: int = 256
    packed: bool = False
    """Offer packed rings; not by default, as User-Mode Linux takes them and cannot say where they
    start."""
    disks: list[DiskConfig] = field(default_factory=list)
    ide: list[IdeDrive] = field(default_factory=list)
    sata: list[SataDrive] = field(default_factory=list)
    nvme: list[NvmeDisk] = field(default_factory=list)
    spare: int = 0
    """Bytes of memory of which hosts may make namespaces of their own."""

    @property
    def drives(self) -> list[Drive]:
        """Those of either kind."""
        return [*self.ide, *self.sata]

    @property
    def attachments(self) -> list[Attachment]:
        """What all its disks are, whatever they are here."""
        found: list[Attached] = [*self.disks, *self.drives, *self.nvme]
        return [each.attachment for each in found]

    @property
    def over_vfio_user(self) -> bool:
        """Whether it is a PCI function, which goes to a virtual machine by vfio-user."""
        return self.kind != "virtio-blk"


@dataclass(frozen=True)
class _Kind:
    """What a kind of controller can be told, and what its disks can."""

    flags: tuple[str, ...]
    keys: tuple[str, ...]
    disk_flags: tuple[str, ...]
    disk_keys: tuple[str, ...]
    add: Callable[[ControllerConfig, Attachment, Options], None]
    """Puts a disk on a controller."""
    queues: int = 1
    """How many it has unless said."""


def _add_disk(controller: ControllerConfig, attachment: Attachment, options: Options) -> None:
    serial = options.get("serial")
    if serial and len(str(serial).encode()) > 20:
        raise CliError(f"serial {serial!r} is too long", "20 bytes at most")
    disk = DiskConfig(attachment, bool(options.get("ro")), str(serial) if serial else None)
    controller.disks.append(disk)


def _add_ide(controller: ControllerConfig, attachment: Attachment, options: Options) -> None:
    controller.ide.append(ide_drive(attachment, options))


def _add_sata(controller: ControllerConfig, attachment: Attachment, options: Options) -> None:
    controller.sata.append(sata_drive(attachment, options))


def _add_nvme(controller: ControllerConfig, attachment: Attachment, options: Options) -> None:
    controller.nvme.append(nvme_disk(attachment, options))


_KINDS: Final = {
    "virtio-blk": _Kind(
        flags=("packed",),
        keys=("socket", "queues", "queue-size"),
        disk_flags=("ro",),
        disk_keys=("serial",),
        add=_add_disk,
    ),
    "ide": _Kind((), ("socket",), IDE_FLAGS, IDE_KEYS, _add_ide),
    "ahci": _Kind((), ("socket",), SATA_FLAGS, SATA_KEYS, _add_sata),
    "nvme": _Kind((), ("socket", "queues", "spare"), NVME_FLAGS, NVME_KEYS, _add_nvme, queues=64),
}


def controller_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``serve``, ``boot`` and ``qtest`` that name controllers."""
    for option in (
        click.option(
            "--disk",
            "disks",
            multiple=True,
            metavar="SPEC,on=NAME[,ro][,serial=S]",
            help="Attach a disk to the controller of that name.",
        ),
        click.option(
            "--controller",
            "controllers",
            multiple=True,
            metavar="KIND,id=NAME[,socket=PATH][,queues=N][,queue-size=N][,packed][,spare=SIZE]",
            help=f"A controller by name; kinds: {', '.join(_KINDS)}.",
        ),
        click.option(
            "--nvme",
            "nvme",
            multiple=True,
            metavar="SPEC[,ro][,nsid=N][,block=512|4096][,serial=S][,socket=PATH]",
            help="A namespace of an NVMe controller.",
        ),
        click.option(
            "--ahci",
            "ahci",
            multiple=True,
            metavar="SPEC[,ro][,port=N][,dvd][,serial=S][,model=M][,firmware=F][,socket=PATH]"
            "[,allow=CATEGORY+...][,dry-run]",
            help="A SATA drive on an AHCI controller.",
        ),
        click.option(
            "--ide",
            "ide",
            multiple=True,
            metavar="SPEC[,ro][,p|s][,0|1][,dvd][,serial=S][,model=M][,firmware=F]"
            "[,on-error=stop|report][,socket=PATH][,allow=CATEGORY+...][,dry-run]",
            help="An IDE drive on the primary or secondary channel, unit 0 or 1.",
        ),
        click.option(
            "--virtio-blk",
            "virtio_blk",
            multiple=True,
            metavar="SPEC[,ro][,socket=PATH][,serial=S][,queues=N][,queue-size=N][,packed][,id=NAME]",
            help="A virtio block device for a disk such as mem:64M or file:disk.img.",
        ),
    ):
        function = option(function)
    return function


def parse_controllers(
    virtio_blk: Sequence[str],
    controllers: Sequence[str],
    disks: Sequence[str],
    ide: Sequence[str] = (),
    ahci: Sequence[str] = (),
    nvme: Sequence[str] = (),
    *,
    may_be_none: bool = False,
) -> list[ControllerConfig]:
    """The controllers that the options name, each with its disks. Raises `CliError` or `SpecError`.

    virtio-blk controllers without a name get the next free of vda, vdb, ... All of `ide` are on one
    controller, all of `ahci` on another, all of `nvme` on a third, and every drive has a place.
    """
    found = [_named(text) for text in controllers]
    found += [_short("virtio-blk", text) for text in virtio_blk]
    found += _shared("ide", ide)
    found += _shared("ahci", ahci)
    found += _shared("nvme", nvme)
    _give_names(found)
    by_name = {controller.id: controller for controller in found}
    if len(by_name) < len(found):
        raise CliError("two controllers have the same id", "give each an id=NAME of its own")
    for text in disks:
        _attach(text, by_name)
    for controller in found:
        _check_count(controller)
        controller.ide = ide_places.place(controller.ide)
        controller.sata = sata_places.place(controller.sata)
        controller.nvme = nvme_places.place(controller.nvme)
    if not found and not may_be_none:
        raise CliError("there is nothing to serve", "--virtio-blk mem:64M serves 64 MiB of memory")
    return found


def ide_drives(controllers: Iterable[ControllerConfig]) -> list[IdeDrive]:
    """The drives of the one IDE controller that a machine has, each with its place.

    Raises `CliError` if there are two such controllers.
    """
    found = [controller for controller in controllers if controller.kind == "ide"]
    if len(found) > 1:
        raise CliError("two IDE controllers", "a machine has one: put up to four drives on it")
    return found[0].ide if found else []


def check_servable(controllers: Iterable[ControllerConfig]) -> None:
    """Raise `CliError` for what a controller cannot do on a socket."""
    for controller in controllers:
        if not controller.attachments and not controller.spare:
            raise CliError(
                f"controller {controller.id} has no disks", f"--{controller.kind} mem:64M adds one"
            )
        for drive in controller.drives:
            if drive.on_error == "stop":
                raise CliError(
                    f"{drive.name}: on-error=stop, but the machine is not ours to stop",
                    "it works with drivebay qtest",
                )


def _named(text: str) -> ControllerConfig:
    name = text.partition(",")[0]
    if name not in _KINDS:
        raise CliError(f"--controller {text}: no kind {name!r}", f"kinds: {', '.join(_KINDS)}")
    kind = _KINDS[name]
    # The kind stands where a disk would; the grammar of what follows is the same.
    options = parse_attachment(text).checked(kind.flags, ("id", *kind.keys))
    if "id" not in options:
        raise CliError(f"--controller {text}: it has no name", "add id=NAME")
    return _controller(name, options, text)


def _short(name: str, text: str) -> ControllerConfig:
    kind = _KINDS[name]
    attachment = parse_attachment(text)
    options = attachment.checked(
        (*kind.flags, *kind.disk_flags), ("id", *kind.keys, *kind.disk_keys)
    )
    controller = _controller(name, options, text)
    kind.add(controller, attachment, options)
    return controller


def _shared(name: str, texts: Sequence[str]) -> list[ControllerConfig]:
    """All disks of ``--ide``, ``--ahci`` or ``--nvme`` on one controller."""
    if not texts:
        return []
    kind = _KINDS[name]
    controller = ControllerConfig(name, name, queues=kind.queues)
    for text in texts:
        attachment = parse_attachment(text)
        options = attachment.checked(kind.disk_flags, (*kind.disk_keys, "socket"))
        kind.add(controller, attachment, options)
        path = str(options.get("socket", "")) or controller.socket
        if controller.socket not in (None, path):
            raise CliError(
                f"--{name} {text}: the controller has socket={controller.socket}",
                f"--controller {name},id=NAME,socket=PATH with --disk SPEC,on=NAME is another one",
            )
        controller.socket = path
    return [controller]


def _attach(text: str, by_name: dict[str, ControllerConfig]) -> None:
    """One ``--disk``: what it may say depends on the controller that it names."""
    attachment = parse_attachment(text)
    name = next((option.value for option in attachment.options if option.name == "on"), None)
    if name not in by_name:
        raise CliError(
            f"--disk {text}: there is no controller {name!r}"
            if name
            else f"--disk {text}: it says not on which controller",
            f"add on=NAME; controllers: {', '.join(by_name) or 'none'}",
        )
    controller = by_name[name]
    kind = _KINDS[controller.kind]
    kind.add(controller, attachment, attachment.checked(kind.disk_flags, (*kind.disk_keys, "on")))


def _check_count(controller: ControllerConfig) -> None:
    if controller.kind == "virtio-blk" and len(controller.disks) != 1:
        raise CliError(
            f"controller {controller.id} has {len(controller.disks)} disks",
            "a virtio-blk controller has one: --disk SPEC,on=" + controller.id,
        )


def _controller(kind: str, options: Options, text: str) -> ControllerConfig:
    socket, name = options.get("socket"), str(options.get("id", ""))
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name):
        raise CliError(f"{text}: id={name}", "a letter, then letters, digits, '.', '_' and '-'")
    return ControllerConfig(
        kind=kind,
        id=name,
        socket=str(socket) if socket else None,
        queues=_number(options, "queues", 1, 64, text, _KINDS[kind].queues),
        queue_size=_queue_size(options, text),
        packed=bool(options.get("packed")),
        spare=parse_memory(f"{text}: spare", str(options["spare"])) if "spare" in options else 0,
    )


def _number(
    options: Options, name: str, low: int, high: int, text: str, default: int | None = None
) -> int:
    value = str(options.get(name, low if default is None else default))
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise CliError(f"{text}: {name}={value}", f"{name} is a number from {low} to {high}")
    return int(value)


def _queue_size(options: Options, text: str) -> int:
    if "queue-size" not in options:
        return 256
    size = _number(options, "queue-size", 4, 1024, text)
    if size & (size - 1):
        raise CliError(f"{text}: queue-size={size}", "a power of two from 4 to 1024")
    return size


def _give_names(controllers: Iterable[ControllerConfig]) -> None:
    taken = {controller.id for controller in controllers}
    names = chain((f"vd{letter}" for letter in ascii_lowercase), map("disk{}".format, count(27)))
    free = (name for name in names if name not in taken)
    for controller in controllers:
        if not controller.id:
            controller.id = next(free)
