"""What the command line says of controllers and their disks, before anything is opened.

``--controller KIND,id=NAME,...`` with ``--disk SPEC,on=NAME,...`` says all of it; a short option
such as ``--virtio-blk SPEC,...`` or ``--ide SPEC,...`` says both at once. `KINDS` are the kinds of
controllers that there are, each in a module of its own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count
from string import ascii_lowercase
from typing import Any, Final

import click

from drivebay.cli import ide, nvme, sata, scsi, virtio_blk
from drivebay.cli.errors import CliError
from drivebay.cli.faults import give_fault
from drivebay.cli.floppy import FLOPPIES
from drivebay.cli.kind import ControllerConfig, Kind, Options
from drivebay.disk.spec import parse_attachment

__all__ = [
    "KINDS",
    "Words",
    "check_disks",
    "check_servable",
    "controller_options",
    "drives_on",
    "parse_controllers",
]

KINDS: Final = {
    kind.name: kind
    for kind in (
        virtio_blk.KIND,
        virtio_blk.PCI,
        scsi.KIND,
        scsi.PCI,
        ide.KIND,
        sata.KIND,
        nvme.KIND,
    )
}

TRACE_HELP: Final = (
    "Record every command: to a .dbtrace, .txt, .jsonl, .json (Perfetto) or .pcapng (Wireshark), or"
    " as lines to - (standard error). Options: disk, registers, interrupts, all, data=SIZE."
)

BY_PCI: Final = "IDE, AHCI, NVMe, --virtio-blk-pci and --scsi-pci"
Words = Sequence[tuple[str, str]]
"""Options that name controllers and disks, each with its text: ``("ide", "mem:64M,dvd")``."""


def controller_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``serve``, ``boot`` and ``qtest`` that name controllers: all of them go to
    `function` as `words`.
    """
    names = [*KINDS, "controller", "disk", "fault", "record", "trace", "strict"]

    @functools.wraps(function)
    def with_words(**given: Any) -> Any:
        words = [(name, text) for name in names for text in given.pop(name.replace("-", "_"))]
        return function(words=words, **given)

    keys = dict.fromkeys(key for kind in KINDS.values() for key in kind.keys)
    flags = dict.fromkeys(flag for kind in KINDS.values() for flag in kind.flags)
    said = "".join([*(f"[,{key}=...]" for key in keys), *(f"[,{flag}]" for flag in flags)])
    options = [(kind.name, *_shown(kind.form, kind.help)) for kind in KINDS.values()]
    options += [
        (
            "controller",
            *_shown(
                f"KIND,id=NAME[,socket=PATH]{said}",
                f"A controller by name; kinds: {', '.join(KINDS)}.",
            ),
        ),
        ("disk", "SPEC,on=NAME[,...]", "Attach a disk to the controller of that name."),
        ("fault", "RULE|@FILE", "What is to go wrong, as 'read,nth=3:drop'."),
        ("trace", "FILE[,OPTION]...", TRACE_HELP),
        ("strict", "NAME|all", "Log what drivers of PCI controllers may not do, and why."),
        ("record", "[NAME=]FILE", "Record a PCI controller for `drivebay lab replay`."),
    ]
    decorated = with_words
    for name, form, text in reversed(options):
        decorated = click.option(f"--{name}", multiple=True, metavar=form, help=text)(decorated)
    return decorated


def parse_controllers(
    words: Words, *, may_be_none: bool = False, floppies: bool = False
) -> list[ControllerConfig]:
    """The controllers that `words` name, each with its disks. Raises `CliError` or `SpecError`.

    Where there are `floppies`, words may be about them.

    Controllers without a name get the next free of vda, vdb, ... All disks of an option such as
    ``--ide`` are on one controller, and every disk has a place.
    """
    texts: dict[str, list[str]] = {}
    for name, text in words:
        texts.setdefault(name, []).append(text)
    found = [_named(text) for text in texts.get("controller", ())]
    for kind in KINDS.values():
        if kind.shared:
            found += _shared(kind, texts.get(kind.name, ()))
        else:
            found += [_short(kind, text) for text in texts.get(kind.name, ())]
    _give_names(found)
    by_name = {controller.id: controller for controller in found}
    if len(by_name) < len(found):
        raise CliError("two controllers have the same id", "give each an id=NAME of its own")
    for text in texts.get("disk", ()):
        _attach(text, by_name)
    for controller in found:
        try:
            controller.disks = controller.kind.place(controller.disks)
        except CliError as error:
            raise CliError(f"controller {controller.id}: {error}", error.hint) from None
    for text in texts.get("fault", ()):
        give_fault(text, by_name)
    for text in texts.get("record", ()):
        _give_recording(text, found)
    for text in texts.get("strict", ()):
        _be_strict(text, found, floppies)
    if not found and not may_be_none:
        raise CliError("there is nothing to serve", "--virtio-blk mem:64M serves 64 MiB of memory")
    return found


def _give_recording(text: str, controllers: Iterable[ControllerConfig]) -> None:
    """A recording of the controller that is meant. Raises `CliError` if there is none."""
    able = {each.id: each for each in controllers if each.kind.vfio_user}
    name, sign, path = text.partition("=")
    if not sign:
        name, path = next(iter(able), ""), text
    if name not in able or (not sign and len(able) > 1):
        names = " or ".join(f"{each}={path}" for each in able)
        raise CliError(f"--record {text}: which controller?", names or f"{BY_PCI} can")
    able[name].record = path


def _be_strict(text: str, controllers: Iterable[ControllerConfig], floppies: bool) -> None:
    """Judge the driver of the controller that is meant, or of all. Raises `CliError`."""
    able = {each.id: each for each in controllers if each.kind.vfio_user}
    names = [*able, FLOPPIES] if floppies else [*able]
    if text not in names and (text != "all" or not names):
        known = " or ".join(["all", *names]) if names else f"{BY_PCI} are"
        raise CliError(f"--strict {text}: no such PCI controller", known)
    for name, controller in able.items():
        if text in ("all", name):
            controller.strict = True


def _shown(form: str, text: str) -> tuple[str, str]:
    """A form for the help: short, and its options in the text, which a terminal can wrap."""
    first, *options = form.removesuffix("]").replace("][", "[").split("[,")
    return f"{first}[,OPTION]...", f"{text} Options: {', '.join(options)}."


def drives_on(controllers: Iterable[ControllerConfig], kind: Kind) -> list[Any]:
    """The drives of the one controller of a kind that a machine has, each with its place.

    Raises `CliError` if there are two such controllers.
    """
    found = [controller for controller in controllers if controller.kind is kind]
    if len(found) > 1:
        raise CliError(f"two {kind.name} controllers", "a machine has one: put all drives on it")
    return found[0].disks if found else []


def check_servable(controllers: Iterable[ControllerConfig]) -> None:
    """Raise `CliError` for what a controller cannot do on a socket."""
    for controller in controllers:
        check_disks(controller)
        controller.kind.check(controller)


def check_disks(controller: ControllerConfig) -> None:
    """Raise `CliError` for one that is of no use without disks, and has none."""
    if not controller.disks and not controller.kind.may_be_empty(controller.settings):
        raise CliError(
            f"controller {controller.id} has no disks",
            f"--disk mem:64M,on={controller.id} adds one",
        )


def _named(text: str) -> ControllerConfig:
    kind = KINDS.get(text.partition(",")[0])
    if kind is None:
        name = text.partition(",")[0]
        raise CliError(f"--controller {text}: no kind {name!r}", f"kinds: {', '.join(KINDS)}")
    # The kind stands where a disk would; the grammar of what follows is the same.
    options = parse_attachment(text).checked(kind.flags, ("id", "socket", *kind.keys))
    if "id" not in options:
        raise CliError(f"--controller {text}: it has no name", "add id=NAME")
    controller = _controller(kind, options, text)
    controller.words.append(("controller", text))
    return controller


def _short(kind: Kind, text: str) -> ControllerConfig:
    attachment = parse_attachment(text)
    options = attachment.checked(
        (*kind.flags, *kind.disk_flags), ("id", "socket", *kind.keys, *kind.disk_keys)
    )
    controller = _controller(kind, options, text)
    controller.disks.append(kind.attach(attachment, options))
    controller.words.append((kind.name, text))
    return controller


def _shared(kind: Kind, texts: Sequence[str]) -> list[ControllerConfig]:
    """All disks of an option such as ``--ide`` on one controller."""
    if not texts:
        return []
    controller = ControllerConfig(kind, kind.name, settings=kind.settings({}, kind.name))
    for text in texts:
        attachment = parse_attachment(text)
        options = attachment.checked(kind.disk_flags, (*kind.disk_keys, "socket"))
        controller.disks.append(kind.attach(attachment, options))
        controller.words.append((kind.name, text))
        path = str(options.get("socket", "")) or controller.socket
        if controller.socket not in (None, path):
            raise CliError(
                f"--{kind.name} {text}: the controller has socket={controller.socket}",
                f"--controller {kind.name},id=NAME,socket=PATH with --disk SPEC,on=NAME is another",
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
    kind = controller.kind
    options = attachment.checked(kind.disk_flags, (*kind.disk_keys, "on"))
    controller.disks.append(kind.attach(attachment, options))
    controller.words.append(("disk", text))


def _controller(kind: Kind, options: Options, text: str) -> ControllerConfig:
    socket, name = options.get("socket"), str(options.get("id", ""))
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]{0,63}", name):
        raise CliError(f"{text}: id={name}", "a letter, then letters, digits, '.', '_' and '-'")
    return ControllerConfig(
        kind, name, str(socket) if socket else None, kind.settings(options, text)
    )


def _give_names(controllers: Iterable[ControllerConfig]) -> None:
    taken = {controller.id for controller in controllers}
    names = chain((f"vd{letter}" for letter in ascii_lowercase), map("disk{}".format, count(27)))
    free = (name for name in names if name not in taken)
    for controller in controllers:
        if not controller.id:
            controller.id = next(free)
