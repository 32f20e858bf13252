"""``--control PATH``: what is served, as the control socket shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig, Served, wrapped
from drivebay.cli.trace import traced
from drivebay.disk.spec import parse_attachment
from drivebay.hosts.control.bay import Bay, Controller, Described
from drivebay.hosts.control.messages import Refused

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk

__all__ = ["bay_of", "layered"]


def layered(disk: Disk) -> Disk:
    """The disk, so that it can be given layers if it was opened for writing."""
    from drivebay.disk.layers.disk import DiskLayer
    from drivebay.disk.layers.layered import LayeredDisk

    # Reservations are the top layer's, and a layer that is put on later has none.
    if disk.read_only or isinstance(disk, LayeredDisk) or disk.reservations is not None:
        return disk
    return LayeredDisk([DiskLayer(disk)])


def bay_of(
    controllers: Iterable[ControllerConfig],
    served: Mapping[str, Served],
    changed: Callable[[], None],
) -> Bay:
    """The controllers, with the places that the disks were put into. `changed` is `Bay.changed`."""
    return Bay((_controller(each, served[each.id]) for each in controllers), changed)


def _controller(config: ControllerConfig, served: Served) -> Controller:
    assert config.socket is not None
    adder = _Adder(config, served)
    return Controller(
        config.id,
        config.kind.name,
        config.socket,
        served.places.slots,
        connected=lambda: served.server.connected,
        statistics=served.statistics or dict,
        add=adder.add if served.places.hot else None,
        swap=adder.swap if served.places.hot else None,
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


class _Adder:
    """Opens disks for the places of a controller that runs."""

    def __init__(self, config: ControllerConfig, served: Served) -> None:
        self._config, self._kind, self._places = config, config.kind, served.places

    def _said(self, text: str, others: Iterable[Any]) -> Any:
        """The disk that `text` names, in its place beside `others`. Raises `CliError`."""
        kind, attachment = self._kind, parse_attachment(text)
        options = attachment.checked(kind.disk_flags, kind.disk_keys)
        wanted = wrapped(wrapped(kind.attach(attachment, options), layered), traced)
        placed = kind.place([*others, wanted])
        mine = next(each for each in placed if each.attachment is wanted.attachment)
        kind.check(replace(self._config, disks=[mine]))
        return mine

    async def add(self, text: str) -> str:
        """See `Controller.add`."""
        try:
            return await self._places.add(self._said(text, self._places.taken))
        except CliError as error:
            raise Refused(str(error), error.hint) from None

    async def swap(self, place: str, text: str, free: Callable[[], None]) -> None:
        """See `Controller.swap`."""
        there = f"{text},{self._kind.at(place)}"
        try:
            await self._places.add(self._said(there, self._places.others(place)), free)
        except CliError as error:
            raise Refused(str(error), error.hint) from None
