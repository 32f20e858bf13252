"""How this room starts other programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

StrPath = str | os.PathLike[str]


def capture(
    command: Sequence[StrPath], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end and return its status and text; raises OSError if it is missing."""
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)


def dying_with_parent(command: Sequence[str]) -> list[str]:
    """Return `command` such that the kernel kills it when the thread that started it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", *command] if setpriv else list(command)
