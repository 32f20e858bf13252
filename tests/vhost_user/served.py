"""A server in a process of its own: ``python served.py SOCKET FILE``."""

from __future__ import annotations

import sys

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.disk.backends.file import FileDisk
from drivebay.hosts.vhost_user.server import VhostUserServer, listen
from drivebay.platform.engine import Engine

if __name__ == "__main__":
    engine = Engine()
    device = BlockDevice(FileDisk(sys.argv[2]), engine, queues=2)
    server = VhostUserServer(device, engine, listen(sys.argv[1]))
    print("ready", flush=True)
    engine.run()
