"""The data plane: the process that holds the disks and serves the sockets, on one engine."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from drivebay.cli.controllers import ControllerConfig
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.contract import Disk
from drivebay.hosts.vhost_user.server import VhostUserServer
from drivebay.platform.engine import Engine
from drivebay.suspend import run

__all__ = ["DataPlane"]


class DataPlane:
    """Opens the disks of `controllers` and serves each on its listener of `listeners`.

    Raises `DiskOpenError` if a disk cannot be opened.
    """

    def __init__(
        self, controllers: Sequence[ControllerConfig], listeners: Sequence[socket.socket]
    ) -> None:
        self._engine = Engine()
        self.disks: list[Disk] = []
        self._devices: list[BlockDevice] = []
        self._servers: list[VhostUserServer] = []
        self._controllers = controllers
        for controller, listener in zip(controllers, listeners, strict=True):
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
            self._devices.append(device)
            self._servers.append(VhostUserServer(device, self._engine, listener, owned=False))

    @property
    def persistent(self) -> bool:
        """Whether all that was flushed outlives this process."""
        return all(disk.persistent for disk in self.disks)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP looks at the sizes of the disks again.

        `ready` is called when a signal can no longer be missed.
        """
        with _signals(
            {
                signal.SIGTERM: self._engine.stop,
                signal.SIGINT: self._engine.stop,
                signal.SIGHUP: lambda: self._engine.later(self._refresh),
            }
        ):
            ready()
            self._engine.run()
        for server in self._servers:
            server.close()
        for disk in self.disks:
            if not disk.read_only:
                run(disk.flush())
            disk.close()

    def _refresh(self) -> None:
        for disk in self.disks:
            self._engine.start(disk.refresh(), lambda _value, _error: None)

    def statistics(self) -> list[dict[str, Any]]:
        """What each controller has done."""
        return [
            {
                "id": controller.id,
                "requests": device.statistics.requests,
                "reads": device.statistics.reads,
                "read-bytes": device.statistics.read_bytes,
                "writes": device.statistics.writes,
                "write-bytes": device.statistics.write_bytes,
                "flushes": device.statistics.flushes,
                "errors": device.statistics.errors,
            }
            for controller, device in zip(self._controllers, self._devices, strict=True)
        ]


@contextlib.contextmanager
def _signals(handlers: dict[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Have signals call back, through a descriptor that ends the engine's wait."""
    old = {
        number: signal.signal(number, lambda *_, call=call: call())
        for number, call in handlers.items()
    }
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
