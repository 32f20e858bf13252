"""Serves an NVMe function over vfio-user: ``python -m tests.guest.nvme_server SOCKET SPEC...``.

Each spec is the next namespace. Lines on standard input: ``fault RULE``, ``clear``,
``add NSID SPEC``, ``remove NSID`` and ``refresh NSID``.
"""

from __future__ import annotations

import sys

from drivebay.controllers.nvme import Nvme
from drivebay.disk.spec import open_disk
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.lab import NVME, NvmeFaults, parse_rule
from drivebay.platform.engine import LONG_MOMENT, Engine, Lookout
from drivebay.suspend import run

from .served import serve


def main(path: str, *specs: str) -> None:
    engine, memory = Engine(), ClientMemory()
    nvme = Nvme(memory, engine, linger=Lookout(engine), linger_long=Lookout(engine, LONG_MOMENT))
    for nsid, spec in enumerate(specs, 1):
        nvme.add(nsid, open_disk(spec))
    torments: list[NvmeFaults] = []

    def obey(verb: str, *words: str) -> None:
        if verb == "fault":
            if not torments:
                torments.append(NvmeFaults(nvme.controller))
            torments[0].faults.add(parse_rule(words[0], NVME))
        elif verb == "clear":
            for faults in torments:
                faults.close()
            torments.clear()
        elif verb == "add":
            nvme.add(int(words[0]), open_disk(words[1]))
        elif verb == "remove":
            nvme.remove(int(words[0]))
        else:
            run(nvme.subsystem.namespaces[int(words[0])].disk.refresh())

    serve(path, nvme, memory, engine, obey)


if __name__ == "__main__":
    main(*sys.argv[1:])
