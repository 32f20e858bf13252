"""A `drivebay serve` of our own: started for a guest, ended with it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from drivebay.cli.errors import CliError, ToldAlready

__all__ = ["Backend", "for_version"]


class Backend:
    """Runs ``drivebay serve`` with `arguments` while it is entered, by a thread that lives as long:
    the server ends with the thread that started it.

    Raises `CliError` if it does not come up.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self.controllers: list[dict[str, Any]] = []
        """What it said when it was ready: id, socket, arguments for front ends."""
        self.pid = 0
        """Its data plane."""
        self.statistics: list[dict[str, Any]] = []
        """What each controller did, once it has ended."""

    def __enter__(self) -> Self:
        serve = [sys.executable, "-m", "drivebay.cli.main", "serve", "--json", "--exit-with-parent"]
        self._process = subprocess.Popen(
            [*serve, *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read_ready()
        return self

    def read_ready(self) -> None:
        """Wait until a data plane says that it serves: the first, or one started again."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:  # it has said why on standard error, which is ours
            self._process.wait()
            raise ToldAlready("the server did not start")
        event = json.loads(line)
        if event["event"] != "ready":
            raise CliError(f"the server said {line.strip()}")
        self.controllers, self.pid = event["controllers"], event["pid"]

    def refresh(self) -> None:
        """Have it look at the sizes of its disks again."""
        self._process.send_signal(signal.SIGHUP)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        output, _ = self._process.communicate()
        for line in output.splitlines():
            event = json.loads(line)
            if event["event"] == "end":
                self.statistics = event["controllers"]

    def qemu_arguments(self, version: tuple[int, int] = (9, 2)) -> list[str]:
        """What attaches QEMU of that version to every controller."""
        words = [word for controller in self.controllers for word in controller["qemu"]]
        return for_version(words, version)


def for_version(words: Sequence[str], version: tuple[int, int]) -> list[str]:
    """QEMU's arguments as that version understands them: before 9.2 it counts in seconds."""
    if version < (9, 2):
        return [word.replace("reconnect-ms=100", "reconnect=1") for word in words]
    return list(words)
