"""PCI functions on their sockets: what all kinds that go over vfio-user share."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from drivebay.cli.drives import Drive, open_drive
from drivebay.cli.errors import CliError
from drivebay.cli.kind import AtRest, ControllerConfig, Served

if TYPE_CHECKING:
    import socket

    from drivebay.ata.device import Device
    from drivebay.disk.contract import Disk
    from drivebay.platform.engine import Engine
    from drivebay.platform.memory import GuestMemory
    from drivebay.platform.pci import PciFunction

__all__ = ["Opened", "check_drives", "qemu", "serve_function"]


class Opened:
    """The disks and devices of a controller that is being built: closed if that fails."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.disks: list[Disk] = []
        self.devices: list[AtRest] = []

    def disk(self, disk: Disk) -> Disk:
        """Take a disk that was opened."""
        self._stack.callback(disk.close)
        self.disks.append(disk)
        return disk

    def drive(self, drive: Drive, engine: Engine) -> Device:
        """Open an ATA or ATAPI drive. Raises `CliError` and `DiskOpenError`."""
        if drive.passed is not None:
            device: Device = drive.passed.drive(engine, self._stack)
        else:
            device = drive.device(self.disk(open_drive(drive)), engine)
        self.devices.append(device)
        return device


Build = Callable[[ControllerConfig, "GuestMemory", "Engine", Opened], "PciFunction"]


def build_function(
    build: Build, controller: ControllerConfig, memory: GuestMemory, engine: Engine
) -> tuple[PciFunction, Opened]:
    """The function, and what was opened for it. Raises `CliError` and `DiskOpenError`."""
    with ExitStack() as stack:
        opened = Opened(stack)
        function = build(controller, memory, engine, opened)
        stack.pop_all()
    return function, opened


def serve_function(build: Build) -> Callable[[ControllerConfig, Engine, socket.socket], Served]:
    """What serves the functions that `build` makes. See `Kind.serve`."""

    def serve(controller: ControllerConfig, engine: Engine, listener: socket.socket) -> Served:
        from drivebay.hosts.vfio_user.memory import ClientMemory
        from drivebay.hosts.vfio_user.server import VfioUserServer

        memory = ClientMemory()
        function, opened = build_function(build, controller, memory, engine)
        server = VfioUserServer(function, memory, engine, listener, owned=False)
        return Served(server, opened.disks, opened.devices)

    return serve


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
