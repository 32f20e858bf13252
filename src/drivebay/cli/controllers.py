"""What the command line says of controllers and their disks, before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from string import ascii_lowercase
from typing import Any, Final

import click

from drivebay.cli.errors import CliError
from drivebay.disk.spec import Attachment, parse_attachment

__all__ = ["ControllerConfig", "DiskConfig", "controller_options", "parse_controllers"]

KINDS: Final = ("virtio-blk",)
CONTROLLER_FLAGS: Final = ("packed",)
DISK_FLAGS: Final = ("ro",)
CONTROLLER_KEYS: Final = ("id", "socket", "queues", "queue-size")
DISK_KEYS: Final = ("serial",)


@dataclass(frozen=True)
class DiskConfig:
    """A disk to attach: what to open, and how."""

    attachment: Attachment
    read_only: bool = False
    serial: str | None = None


@dataclass
class ControllerConfig:
    """A controller to serve."""

    kind: str
    id: str
    socket: str | None = None
    queues: int = 1
    queue_size: int = 256
    packed: bool = False
    """Offer packed rings; not by default, as User-Mode Linux takes them and cannot say where they
    start."""
    disks: list[DiskConfig] = field(default_factory=list)


def controller_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``serve`` and ``boot`` that name controllers."""
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
            metavar="KIND,id=NAME[,socket=PATH][,queues=N][,queue-size=N][,packed]",
            help=f"A controller by name; kinds: {', '.join(KINDS)}.",
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
    virtio_blk: Sequence[str], controllers: Sequence[str], disks: Sequence[str]
) -> list[ControllerConfig]:
    """The controllers that the options name, each with its disks. Raises `CliError` or `SpecError`.

    Controllers without a name get the next free of vda, vdb, ...
    """
    found = [_named(text) for text in controllers]
    found += [_short("virtio-blk", text) for text in virtio_blk]
    _give_names(found)
    by_name = {controller.id: controller for controller in found}
    if len(by_name) < len(found):
        raise CliError("two controllers have the same id", "give each an id=NAME of its own")
    for text in disks:
        attachment = parse_attachment(text)
        options = attachment.checked(DISK_FLAGS, (*DISK_KEYS, "on"))
        name = options.get("on")
        if name not in by_name:
            raise CliError(
                f"--disk {text}: there is no controller {name!r}"
                if name
                else f"--disk {text}: it says not on which controller",
                f"add on=NAME; controllers: {', '.join(by_name) or 'none'}",
            )
        by_name[str(name)].disks.append(_disk(attachment, options))
    for controller in found:
        if len(controller.disks) != 1:
            raise CliError(
                f"controller {controller.id} has {len(controller.disks)} disks",
                "a virtio-blk controller has one: --disk SPEC,on=" + controller.id,
            )
    if not found:
        raise CliError("there is nothing to serve", "--virtio-blk mem:64M serves 64 MiB of memory")
    return found


def _short(kind: str, text: str) -> ControllerConfig:
    attachment = parse_attachment(text)
    options = attachment.checked((*CONTROLLER_FLAGS, *DISK_FLAGS), (*CONTROLLER_KEYS, *DISK_KEYS))
    controller = _controller(kind, options, text)
    controller.disks.append(_disk(attachment, options))
    return controller


def _named(text: str) -> ControllerConfig:
    kind, *items = text.split(",")
    if kind not in KINDS:
        raise CliError(f"--controller {text}: no kind {kind!r}", f"kinds: {', '.join(KINDS)}")
    options: dict[str, str | bool] = {}
    for item in items:
        key, _, value = item.partition("=")
        if key in CONTROLLER_FLAGS and key not in options and value in ("", "on", "off"):
            options[key] = value != "off"
            continue
        if key not in CONTROLLER_KEYS or not value or key in options:
            keys = ", ".join(f"{name}=" for name in CONTROLLER_KEYS)
            raise CliError(f"--controller {text}: {item!r} makes no sense", f"each of {keys} once")
        options[key] = value
    if "id" not in options:
        raise CliError(f"--controller {text}: it has no name", "add id=NAME")
    return _controller(kind, options, text)


def _controller(kind: str, options: dict[str, str | bool], text: str) -> ControllerConfig:
    socket, name = options.get("socket"), str(options.get("id", ""))
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name):
        raise CliError(f"{text}: id={name}", "a letter, then letters, digits, '.', '_' and '-'")
    return ControllerConfig(
        kind=kind,
        id=name,
        socket=str(socket) if socket else None,
        queues=_number(options, "queues", 1, 64, text),
        queue_size=_queue_size(options, text),
        packed=bool(options.get("packed")),
    )


def _disk(attachment: Attachment, options: dict[str, str | bool]) -> DiskConfig:
    serial = options.get("serial")
    if serial and len(str(serial).encode()) > 20:
        raise CliError(f"serial {serial!r} is too long", "20 bytes at most")
    return DiskConfig(attachment, bool(options.get("ro")), str(serial) if serial else None)


def _number(options: dict[str, str | bool], name: str, low: int, high: int, text: str) -> int:
    value = str(options.get(name, low))
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise CliError(f"{text}: {name}={value}", f"{name} is a number from {low} to {high}")
    return int(value)


def _queue_size(options: dict[str, str | bool], text: str) -> int:
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
