"""How this room starts other programs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

StrPath = str | os.PathLike[str]


def capture(
    command: Sequence[StrPath], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end and return its status and text; raises OSError if it is missing."""
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


class Leash:
    """Kills a process when this one ends, however it ends, `kill -9` included.

    With `group` all of the process's group is killed. Let `go` of it once the process has ended.
    """

    def __init__(self, process: int, *, group: bool = False) -> None:
        target = f"-{process}" if group else str(process)
        # Its standard input ends when the last holder of the other end, this process, does.
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _; kill -9 {target}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def go(self) -> None:
        """Stop watching."""
        self._watcher.kill()
        self._watcher.communicate()
