"""Serves an AHCI function over vfio-user: ``python -m tests.guest.ahci_server SOCKET SPEC...``.

A spec that ends in ``.iso`` is a CD; each drive is at the next port.
"""

from __future__ import annotations

import socket
import sys

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci import Ahci
from drivebay.disk.spec import open_disk
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd


def main(path: str, *specs: str) -> None:
    engine, memory = Engine(), ClientMemory()
    ahci = Ahci(memory, engine)
    for number, spec in enumerate(specs):
        if spec.endswith(".iso"):
            drive = PacketDevice(Dvd(open_disk(spec, read_only=True)), engine)
            ahci.attach(number, drive)
        else:
            ahci.attach(number, AtaDisk(open_disk(spec), engine, serial=f"AHCI{number}"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    server = VfioUserServer(ahci, memory, engine, listener)
    print("ready", flush=True)
    engine.run()
    server.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
