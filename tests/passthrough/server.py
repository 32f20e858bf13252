"""Serves an AHCI function whose drive is passed through to a simulated SAT device::

python -m tests.passthrough.server SOCKET SPEC CATEGORY...
"""

from __future__ import annotations

import socket
import sys

from drivebay.ata.disk import AtaDisk
from drivebay.ata.passthrough import PassthroughDrive, Policy, identify
from drivebay.controllers.ahci import Ahci
from drivebay.disk.spec import open_disk
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine

from .support import SatDevice


def main(path: str, spec: str, *categories: str) -> None:
    engine, memory, inside = Engine(), ClientMemory(), Engine(workers=0)
    real = AtaDisk(open_disk(spec), inside, serial="REAL", model="a real drive")
    device = SatDevice(real, inside)
    ahci = Ahci(memory, engine)
    drive = PassthroughDrive(device, engine, identify(device), Policy.of(*categories))
    ahci.attach(0, drive)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = VfioUserServer(ahci, memory, engine, listener)
    print("ready", flush=True)
    engine.run()
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
