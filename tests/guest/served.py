"""A PCI function in a process of its own, over vfio-user, that a test can tell what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.platform.pci import PciFunction

Obey = Callable[..., None]
"""Does what a line says: its words are the arguments."""


class Served:
    """A function in a process of its own; `arguments` are QEMU's."""

    def __init__(self, server: subprocess.Popen[str], path: Path) -> None:
        self._server = server
        self.expect("ready")
        device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path)}}
        self.arguments = ["-device", json.dumps(device)]

    def expect(self, word: str) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == f"{word}\n"

    def tell(self, line: str) -> None:
        """Have it do something; it is done when this returns."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        self.expect("done")


@contextmanager
def served(module: str, path: Path, *specs: str) -> Iterator[Served]:
    """``python -m MODULE SOCKET SPEC...``, which calls `serve`."""
    command = [sys.executable, "-m", module, str(path), *specs]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        try:
            yield Served(server, path)
        finally:
            server.terminate()


def serve(
    path: str, function: PciFunction, memory: ClientMemory, engine: Engine, obey: Obey
) -> None:
    """Serve at `path`, and do what lines on standard input say, until this process is ended."""

    def read() -> None:
        lines = os.read(0, 4096).decode()
        if not lines:
            engine.unwatch(0)
        for line in lines.splitlines():
            obey(*line.split())
            print("done", flush=True)

    engine.watch(0, read)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = VfioUserServer(function, memory, engine, listener)
        print("ready", flush=True)
        engine.run()
        server.close()
