"""The data plane: the process that holds the disks and serves the sockets, on one engine."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from drivebay.cli.controllers import ControllerConfig
from drivebay.cli.served import finish, refresh
from drivebay.cli.signals import signals
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.contract import Disk
from drivebay.hosts.connection import SocketServer
from drivebay.hosts.vhost_user.server import VhostUserServer
from drivebay.platform.engine import Engine

if TYPE_CHECKING:
    from drivebay.ata.device import Device

__all__ = ["DataPlane"]


class DataPlane:
    """Opens the disks of `controllers` and serves each on its listener of `listeners`.

    Raises `DiskOpenError` or `CliError` if a disk cannot be opened.
    """

    def __init__(
        self, controllers: Sequence[ControllerConfig], listeners: Sequence[socket.socket]
    ) -> None:
        self._engine = Engine()
        self.disks: list[Disk] = []
        self.sizes: list[int] = []
        """Bytes of the disks of each controller."""
        self._devices: dict[str, BlockDevice] = {}
        self._drives: list[Device] = []
        self._servers: list[SocketServer] = []
        for controller, listener in zip(controllers, listeners, strict=True):
            serve = self._serve_function if controller.over_vfio_user else self._serve_virtio_blk
            opened = len(self.disks)
            self._servers.append(serve(controller, listener))
            self.sizes.append(sum(disk.byte_count for disk in self.disks[opened:]))

    def _serve_virtio_blk(
        self, controller: ControllerConfig, listener: socket.socket
    ) -> SocketServer:
        config = controller.disks[0]
        disk = config.attachment.disk.open(config.read_only)
        self.disks.append(disk)
        device = BlockDevice(
            disk,
            self._engine,
            serial=config.serial,
            queues=controller.queues,
            queue_size=controller.queue_size,
            packed=controller.packed,
        )
        self._devices[controller.id] = device
        return VhostUserServer(device, self._engine, listener, owned=False)

    def _serve_function(
        self, controller: ControllerConfig, listener: socket.socket
    ) -> SocketServer:
        # Here, as a virtio-blk server that is started again is waited for.
        from drivebay.cli.functions import function_of
        from drivebay.hosts.vfio_user.memory import ClientMemory
        from drivebay.hosts.vfio_user.server import VfioUserServer

        memory = ClientMemory()
        function, disks, drives = function_of(controller, memory, self._engine)
        self.disks += disks
        self._drives += drives
        return VfioUserServer(function, memory, self._engine, listener, owned=False)

    @property
    def persistent(self) -> bool:
        """Whether all that was flushed outlives this process."""
        return all(disk.persistent for disk in self.disks)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP looks at the sizes of the disks again.

        `ready` is called when a signal can no longer be missed.
        """
        with signals(
            self._engine,
            {
                signal.SIGTERM: self._engine.stop,
                signal.SIGINT: self._engine.stop,
                signal.SIGHUP: lambda: self._engine.later(
                    lambda: refresh(self._engine, self.disks)
                ),
            },
        ):
            ready()
            self._engine.run()
        self._end()

    def _end(self) -> None:
        """Let requests under way end, and everything be stable."""
        for server in self._servers:
            server.close()
        finish(self._engine, self._at_rest, self.disks)

    def _at_rest(self) -> bool:
        served = any(server.connected for server in self._servers)
        return not served and all(drive.at_rest for drive in self._drives)

    def statistics(self) -> list[dict[str, Any]]:
        """What each virtio-blk controller has done."""
        return [
            {
                "id": name,
                "requests": device.statistics.requests,
                "reads": device.statistics.reads,
                "read-bytes": device.statistics.read_bytes,
                "writes": device.statistics.writes,
                "write-bytes": device.statistics.write_bytes,
                "flushes": device.statistics.flushes,
                "errors": device.statistics.errors,
            }
            for name, device in self._devices.items()
        ]
