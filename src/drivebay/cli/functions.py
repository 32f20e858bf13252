"""PCI functions on their sockets: what all kinds that go over vfio-user share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from drivebay.cli.drives import Drive, open_drive
from drivebay.cli.errors import CliError
from drivebay.cli.faults import FaultDesk
from drivebay.cli.kind import ControllerConfig, Served
from drivebay.cli.places import Places

if TYPE_CHECKING:
    import socket

    from drivebay.ata.device import Device
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.bay import Health
    from drivebay.hosts.control.messages import QueueState
    from drivebay.hosts.control.slot import Slot
    from drivebay.lab.dialects import Dialect
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.observer import Observed
    from drivebay.platform.pci import PciFunction

__all__ = [
    "Built",
    "FunctionServer",
    "Inside",
    "ata_dialect",
    "ata_hold",
    "ata_places",
    "check_drives",
    "judge",
    "qemu",
]

AnyDrive = TypeVar("AnyDrive", bound=Drive)
Built = tuple["PciFunction", Places[Any]]


def ata_places(
    attach: Callable[[AnyDrive, Device], None],
    engine: Engine,
    name: Callable[[AnyDrive], str],
    detach: Callable[[AnyDrive], object],
) -> Places[AnyDrive]:
    """Places for ATA and ATAPI drives, which `attach` and `detach` plug in and pull."""

    def open_disk(drive: AnyDrive) -> Disk | None:
        return open_drive(drive) if drive.passed is None else None

    def put(drive: AnyDrive, disk: Disk | None) -> Slot:
        from drivebay.ata.disk import AtaDisk
        from drivebay.ata.packet import PacketDevice
        from drivebay.cli.health import SmartHealth
        from drivebay.hosts.control.slot import Slot
        from drivebay.scsi.dvd import Dvd

        device: Device
        if drive.passed is not None:
            device = drive.passed.drive(engine, places.opened)
        else:
            assert disk is not None
            device = drive.device(disk, engine)
        attach(drive, device)
        device.hold(places.held)
        places.devices.append(device)

        def pull() -> Callable[[], bool]:
            detach(drive)
            places.devices.remove(device)
            return lambda: device.at_rest

        unit = device.unit if isinstance(device, PacketDevice) else None
        return Slot(
            disk,
            drive.attachment.disk.text,
            dvd=unit if isinstance(unit, Dvd) else None,
            pull=pull if drive.passed is None else None,
            part=device,
            health=SmartHealth(device.smart) if isinstance(device, AtaDisk) else None,
        )

    places: Places[AnyDrive] = Places(open_disk, put, name, hot=True)
    return places


def ata_dialect() -> Dialect:
    """What reads the commands of ATA and ATAPI drives."""
    from drivebay.lab.dialects import ata

    return ata


def ata_hold(_function: PciFunction, places: Places[Any], held: bool) -> None:
    """Have the drives begin no commands, those that come meanwhile, too; or let go of them."""
    from drivebay.ata.device import Device

    places.held = held
    for slot in places.slots.values():
        if isinstance(slot.part, Device):
            slot.part.hold(held)


def _parts(_function: PciFunction, places: Places[Any]) -> Mapping[str, Observed]:
    """Each drive takes its own commands."""
    return {name: slot.part for name, slot in places.slots.items() if slot.part is not None}


def _health(_function: PciFunction, places: Places[Any]) -> Mapping[str, Health]:
    return {name: slot.health for name, slot in places.slots.items() if slot.health is not None}


@dataclass(frozen=True)
class Inside:
    """What is in a function with its places, for whoever looks; see `Served`."""

    hold: Callable[[Any, Places[Any], bool], None]
    parts: Callable[[Any, Places[Any]], Mapping[str, Observed]] = _parts
    health: Callable[[Any, Places[Any]], Mapping[str, Health]] = _health
    queues: Callable[[Any], Iterable[QueueState]] = lambda _function: ()


ATA: Final = Inside(ata_hold)


@dataclass(frozen=True)
class FunctionServer:
    """Serves the functions that `build` makes (see `Kind.serve`), says what one did and what is
    `inside`, and has its fault rules work.
    """

    build: Callable[[ControllerConfig, GuestMemory, Engine], Built]
    statistics: Callable[[Any], dict[str, int]] | None = None
    inside: Inside = ATA

    def make(
        self, controller: ControllerConfig, memory: GuestMemory, engine: Engine
    ) -> tuple[PciFunction, Places[Any], FaultDesk]:
        """A function with its disks, and what goes wrong on it."""
        function, places = self.build(controller, memory, engine)
        judge(function, controller)
        parts = partial(self.inside.parts, function, places)
        return function, places, FaultDesk(controller, parts, places, engine)

    def __call__(
        self, controller: ControllerConfig, engine: Engine, listener: socket.socket
    ) -> Served:
        """Serve one on a socket, and record it if that is wanted."""
        from drivebay.cli.recording import record
        from drivebay.hosts.vfio_user.memory import ClientMemory
        from drivebay.hosts.vfio_user.server import VfioUserServer

        recorder, memory, own_engine = None, ClientMemory(), engine
        if controller.record is not None:
            recorder, controller = record(controller, engine)
            memory, own_engine = recorder.memory, recorder.engine
        function, places, faults = self.make(controller, memory, own_engine)
        shown = function if recorder is None else recorder.show(function)
        statistics, inside = self.statistics, self.inside
        return Served(
            VfioUserServer(shown, memory, engine, listener, owned=False),
            places,
            None if statistics is None else lambda: statistics(function),
            faults,
            parts=partial(inside.parts, function, places),
            queues=partial(inside.queues, function),
            hold=partial(inside.hold, function, places),
            saved=function,
            health=partial(inside.health, function, places),
            end=(lambda: None) if recorder is None else recorder.close,
        )


def judge(function: PciFunction, controller: ControllerConfig) -> None:
    """Have what the driver of a function may not do be logged, if that is wanted."""
    if controller.strict:
        from drivebay.lab.strict import Sins, be_strict

        be_strict(function, Sins(), controller.id)


def check_drives(controller: ControllerConfig) -> None:
    """Raise `CliError` for a drive that would stop the machine, which is not ours."""
    for drive in controller.disks:
        if drive.on_error == "stop":
            raise CliError(
                f"{drive.name}: on-error=stop, but the machine is not ours to stop",
                "it works with drivebay qtest",
            )


def qemu(controller: ControllerConfig, socket: str) -> list[str]:
    """QEMU's arguments for a function; it takes the address of a socket as JSON only."""
    device: dict[str, Any] = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": socket}}
    return ["-device", json.dumps(device, separators=(",", ":"))]
