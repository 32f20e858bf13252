"""A client of QEMU's machine protocol, as small as it goes."""

from __future__ import annotations

import json
import socket
from typing import Any

from drivebay.guests.errors import GuestError


class Qmp:
    """One connection; `events` collects what QEMU tells unasked."""

    def __init__(self, connection: socket.socket, timeout: float = 30.0) -> None:
        connection.settimeout(timeout)
        self._connection = connection
        self._lines = connection.makefile("rb")
        self.events: list[dict[str, Any]] = []
        self._greeted = False

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run `command` and return what it returns; underscores in names become dashes.

        Raises GuestError when QEMU refuses it or is gone.
        """
        if not self._greeted:
            self._read("QMP")
            self._greeted = True
            self.execute("qmp_capabilities")
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        # qmp_capabilities is the one command that is spelt with an underscore.
        spelt = command if command == "qmp_capabilities" else command.replace("_", "-")
        request = json.dumps({"execute": spelt, "arguments": named})
        self._connection.sendall(request.encode() + b"\n")
        return self._read("return")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()

    def _read(self, wanted: str) -> Any:
        while line := self._lines.readline():
            message = json.loads(line)
            if wanted in message:
                return message[wanted]
            if "error" in message:
                raise GuestError(f"QEMU refused: {message['error']['desc']}")
            self.events.append(message)
        raise GuestError("QEMU hung up")
