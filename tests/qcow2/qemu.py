"""QEMU's own tools."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from drivebay.guests.errors import GuestError
from drivebay.guests.qemu import Qemu, find_qemu


@functools.cache
def _found() -> Qemu | None:
    try:
        return find_qemu()
    except GuestError:
        return None


def tool(program: str, *arguments: str | Path) -> str:
    """Run a tool of QEMU; what it says."""
    if (qemu := _found()) is None:
        pytest.skip("no QEMU")
    done = subprocess.run(
        [*qemu.command(program), *map(str, arguments)],
        env={**os.environ, **qemu.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def img(*arguments: str | Path) -> str:
    return tool("qemu-img", *arguments)


def io(path: Path, *commands: str, format: str = "qcow2") -> str:
    parts = [part for command in commands for part in ("-c", command)]
    return tool("qemu-io", "-f", format, *parts, path)
