"""Controllers on sockets for a QEMU of ours, worked by a thread of their own."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.ide import PIIX4_NATIVE, PiixIde
from drivebay.controllers.nvme import Nvme, Subsystem
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.contract import Disk
from drivebay.hosts.listening import listen
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.hosts.vhost_user.server import VhostUserServer
from drivebay.platform.engine import Engine, Lookout
from drivebay.platform.interrupts import Line
from drivebay.platform.pci import PciFunction

__all__ = ["DEVICES", "Served"]


class Served:
    """Serves `disk` by controllers on sockets in `folder`, while it is entered; add them before.

    The disk is the caller's.
    """

    def __init__(self, disk: Disk, folder: Path) -> None:
        self._disk, self._folder = disk, folder
        self._engine = Engine()
        self._servers: list[VfioUserServer | VhostUserServer] = []
        self._thread = threading.Thread(target=self._engine.run, name="drivebay-compare")
        self.kicks = 0
        """Notifications by eventfd that were noticed."""

    def add(self, contender: str, plate: str) -> list[str]:
        """What a contender is worked on, with `plate` for its model or serial number; QEMU's
        arguments.
        """
        return DEVICES[contender](self, plate)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        def close() -> None:
            for server in self._servers:
                server.close()
            self._engine.stop()

        self._engine.later(close)
        self._thread.join()
        self._engine.close()

    def cpu_seconds(self) -> float:
        """What the thread has used."""
        assert self._thread.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self._thread.ident))

    # -- devices ---------------------------------------------------------------------------------

    def _function(self, plate: str, make: Callable[[ClientMemory], PciFunction]) -> list[str]:
        memory, path = ClientMemory(), os.fspath(self._folder / f"{plate}.sock")
        server = VfioUserServer(make(memory), memory, self._engine, listen(path))
        self._servers.append(server)
        device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": path}}
        return ["-device", json.dumps(device)]

    def _drive(self, plate: str) -> AtaDisk:
        return AtaDisk(self._disk, self._engine, model=plate)

    def ide(self, plate: str) -> list[str]:
        """IDE in native mode, over vfio-user."""

        def make(memory: ClientMemory) -> PiixIde:
            nowhere = (Line(lambda _level: None), Line(lambda _level: None))
            piix = PiixIde(memory, nowhere, PIIX4_NATIVE, switchable=True)
            piix.attach(0, 0, self._drive(plate))
            return piix

        return self._function(plate, make)

    def ahci(self, plate: str) -> list[str]:
        """AHCI, over vfio-user."""

        def make(memory: ClientMemory) -> Ahci:
            ahci = Ahci(memory, self._engine)
            ahci.attach(0, self._drive(plate))
            return ahci

        return self._function(plate, make)

    def nvme(self, plate: str, *, doorbell_buffers: bool = False) -> list[str]:
        """NVMe, over vfio-user."""

        def make(memory: ClientMemory) -> Nvme:
            nvme = Nvme(
                memory,
                self._engine,
                subsystem=Subsystem(serial=plate),
                doorbell_buffers=doorbell_buffers,
                linger=Lookout(self._engine),
            )
            nvme.add(1, self._disk)
            return nvme

        return self._function(plate, make)

    def nvme_dbbuf(self, plate: str) -> list[str]:
        """The same, with doorbells in memory."""
        return self.nvme(plate, doorbell_buffers=True)

    def virtio_blk(self, plate: str) -> list[str]:
        """virtio-blk, over vhost-user."""
        path = os.fspath(self._folder / f"{plate}.sock")
        device = BlockDevice(self._disk, self._engine, serial=plate, packed=False)
        kick = device.kick

        def counted(index: int) -> None:
            self.kicks += 1
            kick(index)

        device.kick = counted  # type: ignore[method-assign]
        self._servers.append(VhostUserServer(device, self._engine, listen(path)))
        return [
            *("-chardev", f"socket,id={plate},path={path}"),
            *("-device", f"vhost-user-blk-pci,chardev={plate},num-queues=1,queue-size=256"),
        ]


DEVICES: Final[dict[str, Callable[[Served, str], list[str]]]] = {
    "ide-pio": Served.ide,
    "ide-dma": Served.ide,
    "ahci": Served.ahci,
    "ahci-ncq": Served.ahci,
    "virtio-blk": Served.virtio_blk,
    "nvme": Served.nvme,
    "nvme-dbbuf": Served.nvme_dbbuf,
}
