"""Serves an AHCI function over vfio-user: ``python -m tests.guest.ahci_server SOCKET SPEC...``.

A spec that ends in ``.iso`` is a CD; each drive is at the next port. Lines on standard input:
``pull PORT``, ``plug PORT`` and ``bad PORT SECTOR``.
"""

from __future__ import annotations

import sys

from drivebay.ata.device import Device
from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci import Ahci
from drivebay.disk.spec import open_disk
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd

from .served import serve


def main(path: str, *specs: str) -> None:
    engine, memory = Engine(), ClientMemory()
    ahci = Ahci(memory, engine)
    drives: list[Device] = []
    for number, spec in enumerate(specs):
        if spec.endswith(".iso"):
            drives.append(PacketDevice(Dvd(open_disk(spec, read_only=True)), engine))
        else:
            drives.append(AtaDisk(open_disk(spec), engine, serial=f"AHCI{number}"))
        ahci.attach(number, drives[number])

    def obey(verb: str, number: str, sector: str = "") -> None:
        drive = drives[int(number)]
        if verb == "pull":
            ahci.detach(int(number))
        elif verb == "plug":
            ahci.attach(int(number), drive)
        elif isinstance(drive, AtaDisk):
            drive.bad.add(int(sector), 1)

    serve(path, ahci, memory, engine, obey)


if __name__ == "__main__":
    main(*sys.argv[1:])
