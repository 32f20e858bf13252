"""What a kind of controller is to the command line: each has a module that says it all.

``--controller KIND,id=NAME,...`` with ``--disk SPEC,on=NAME,...`` says all there is to say; the
kind's own option, as ``--ide SPEC,...``, says both at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from drivebay.cli.errors import CliError
from drivebay.disk.spec import Attachment

if TYPE_CHECKING:
    import socket

    from drivebay.cli.places import Places
    from drivebay.disk.contract import Disk
    from drivebay.hosts.connection import SocketServer
    from drivebay.hosts.control.bay import Faults, Health, Saved
    from drivebay.hosts.control.messages import QueueState
    from drivebay.lab.dialects import Dialect
    from drivebay.lab.rules import Rule
    from drivebay.platform.engine import Engine
    from drivebay.platform.observer import Observed

__all__ = [
    "AtRest",
    "Attached",
    "ControllerConfig",
    "Kind",
    "Options",
    "Served",
    "Wrap",
    "number",
    "opened_by",
    "wrapped",
]

Options = Mapping[str, str | bool]
"""What was said after a disk or a controller, checked: flags are booleans, keys have strings."""
Wrap = Callable[["Disk"], "Disk"]
"""Makes of a disk another that stands on it."""
Opener = Callable[[bool], "Disk"]
"""Opens a disk, only to be read or not."""


class Attached(Protocol):
    """A disk on a controller, as its kind describes it."""

    @property
    def attachment(self) -> Attachment:
        """What was said."""


class AtRest(Protocol):
    """What must have ended its commands before its disks are closed."""

    @property
    def at_rest(self) -> bool:
        """Whether it has."""


@dataclass
class Served:
    """A controller on its socket, and the places for its disks."""

    server: SocketServer
    places: Places[Any]
    statistics: Callable[[], dict[str, int]] | None = None
    """What it has done, where that is counted."""
    faults: Faults | None = None
    """What is to go wrong, where something can."""
    parts: Callable[[], Mapping[str, Observed]] = dict
    """What takes commands: by the place of each, or one that has no name."""
    queues: Callable[[], Iterable[QueueState]] = list
    """The queues that its guest has made."""
    hold: Callable[[bool], None] | None = None
    """Has it take no commands, and let go of it."""
    saved: Saved | None = None
    """Its whole state, where it has one."""
    health: Callable[[], Mapping[str, Health]] = dict
    """That of its drives by their places, or its own without a name."""
    end: Callable[[], None] = lambda: None
    """Called when it is to be served no more, while its guest is still there."""


@dataclass(frozen=True)
class Kind:
    """A kind of controller."""

    name: str
    form: str
    """How its option is written, after the name."""
    help: str
    attach: Callable[[Attachment, Options], Any]
    """The disk that checked options describe. Raises `CliError` or `SpecError`."""
    serve: Callable[[ControllerConfig, Engine, socket.socket], Served]
    """Open the disks and serve them on the socket. Raises `CliError` and `DiskOpenError`."""
    qemu: Callable[[ControllerConfig, str], list[str]]
    """QEMU's arguments for a controller on a socket."""
    dialect: Callable[[], Dialect]
    """What reads its commands, and what fault rules may name; imported when it is wanted."""
    cloud_hypervisor: Callable[[ControllerConfig, str], list[str]] | None = None
    """Those of cloud-hypervisor, if it has such devices."""
    flags: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    """Of the controller; every kind knows ``id`` and ``socket``."""
    disk_flags: tuple[str, ...] = ()
    disk_keys: tuple[str, ...] = ()
    place: Callable[[Iterable[Any]], list[Any]] = list
    """The disks, each with its place. Raises `CliError`."""
    at: Callable[[str], str] = str
    """What to say of a disk that is to come to a place, where disks come and go."""
    settings: Callable[[Options, str], Any] = lambda options, text: None
    """What `flags` and `keys` of the controller said. Raises `CliError`."""
    may_be_empty: Callable[[Any], bool] = lambda settings: False
    """Whether a controller with such settings is of use without disks."""
    check: Callable[[ControllerConfig], None] = lambda controller: None
    """Raise `CliError` for what a controller cannot do on a socket."""
    shared: bool = True
    """All disks of its option are on one controller, or each has its own."""
    vfio_user: bool = False
    """It is a PCI function, which goes to a virtual machine by vfio-user."""


@dataclass
class ControllerConfig:
    """A controller and its disks."""

    kind: Kind
    id: str
    socket: str | None = None
    settings: Any = None
    """What its kind made of its options."""
    disks: list[Any] = field(default_factory=list)
    """As its kind describes them; see `Attached`."""
    faults: list[Rule] = field(default_factory=list)
    """What is to go wrong."""
    strict: bool = False
    """What its driver may not do is logged."""
    record: str | None = None
    """The path of a recording to be made of it."""
    words: list[tuple[str, str]] = field(default_factory=list)
    """What was said of it and its disks, option by option."""

    @property
    def attachments(self) -> list[Attachment]:
        """What its disks are."""
        return [disk.attachment for disk in self.disks]

    def wrapped(self, wrap: Wrap) -> ControllerConfig:
        """The same, but that `wrap` is put around each disk when it is opened."""
        return replace(self, disks=[wrapped(disk, wrap) for disk in self.disks])


def wrapped(wanted: Any, wrap: Wrap) -> Any:
    """What a kind says of a disk, but that `wrap` is put around that when it is opened."""
    node = wanted.attachment.disk
    return opened_by(wanted, lambda read_only: wrap(node.open(read_only)))


def opened_by(wanted: Any, opener: Opener) -> Any:
    """What a kind says of a disk, but for how that is opened."""
    attachment = wanted.attachment
    node = replace(attachment.disk, opener=opener)
    return replace(wanted, attachment=replace(attachment, disk=node))


def number(options: Options, name: str, low: int, high: int, text: str, default: int) -> int:
    """The number that an option says. Raises `CliError`."""
    value = str(options.get(name, default))
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise CliError(f"{text}: {name}={value}", f"{name} is a number from {low} to {high}")
    return int(value)
