"""``--control PATH``: what is served, as the control socket shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig, Served
from drivebay.cli.trace import traced
from drivebay.disk.spec import Node, parse_attachment
from drivebay.hosts.control.bay import Bay, Controller, Described
from drivebay.hosts.control.messages import Refused

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["bay_of", "with_layers"]


def with_layers(controllers: Iterable[ControllerConfig]) -> list[ControllerConfig]:
    """The same, but that the disks that are opened for writing can be given layers."""
    return [
        replace(controller, disks=[_with_layers(disk) for disk in controller.disks])
        for controller in controllers
    ]


def _with_layers(wanted: Any) -> Any:
    """What a kind says of a disk, but for how that is opened."""
    attachment = wanted.attachment
    return replace(wanted, attachment=replace(attachment, disk=_layered(attachment.disk)))


def _layered(node: Node) -> Node:
    def opener(read_only: bool) -> Disk:
        from drivebay.disk.layers.disk import DiskLayer
        from drivebay.disk.layers.layered import LayeredDisk

        disk = node.open(read_only)
        # Reservations are the top layer's, and a layer that is put on later has none.
        if disk.read_only or isinstance(disk, LayeredDisk) or disk.reservations is not None:
            return disk
        return LayeredDisk([DiskLayer(disk)])

    return replace(node, opener=opener)


def bay_of(
    controllers: Iterable[ControllerConfig],
    served: Mapping[str, Served],
    changed: Callable[[], None],
) -> Bay:
    """The controllers, with the places that the disks were put into. `changed` is `Bay.changed`."""
    return Bay((_controller(each, served[each.id]) for each in controllers), changed)


def _controller(config: ControllerConfig, served: Served) -> Controller:
    assert config.socket is not None
    return Controller(
        config.id,
        config.kind.name,
        config.socket,
        served.places.slots,
        connected=lambda: served.server.connected,
        statistics=served.statistics or dict,
        add=_adder(config, served) if served.places.hot else None,
        faults=served.faults,
        parts=served.parts,
        describe=_describer(config),
        queues=served.queues,
        hold=served.hold,
        at_rest=lambda: all(device.at_rest for device in served.places.devices),
        saved=served.saved,
        health=served.health,
    )


def _describer(config: ControllerConfig) -> Callable[[int, Any], Described]:
    """Reads commands by the dialect of the controller, which is imported at the first."""

    def describe(queue: int, command: Any) -> Described:
        subject = config.kind.dialect().describe(queue, command, config.id)
        return Described(subject.command, subject.where)

    return describe


def _adder(config: ControllerConfig, served: Served) -> Any:
    kind, places = config.kind, served.places

    async def add(text: str) -> str:
        attachment = parse_attachment(text)
        options = attachment.checked(kind.disk_flags, kind.disk_keys)
        try:
            wanted = traced(_with_layers(kind.attach(attachment, options)))
            placed = kind.place([*places.taken, wanted])
            mine = next(each for each in placed if each.attachment is wanted.attachment)
            kind.check(replace(config, disks=[mine]))
            return await places.add(mine)
        except CliError as error:
            raise Refused(str(error), error.hint) from None

    return add
