"""``drivebay boot``: the QEMU on this terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
from types import SimpleNamespace
from drivebay.cli import boot
from drivebay.guests import qemu
qemu.find_qemu = lambda progress: SimpleNamespace(environment={"STATUS": "7"})
raise SystemExit(boot._foreground(["sh", "-c", SCRIPT]))
"""


def start(script: str) -> subprocess.Popen[str]:
    program = PROGRAM.replace("SCRIPT", repr(script))
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def runs(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_qemu_ends_when_boot_is_killed(number: signal.Signals) -> None:
    with start("echo $$; exec sleep 60") as boot:
        assert boot.stdout is not None
        qemu = int(boot.stdout.readline())
        time.sleep(0.2)  # the leash is put on right after the start
        assert runs(qemu)
        boot.send_signal(number)
        boot.wait(10)
        deadline = time.monotonic() + 10
        while runs(qemu) and time.monotonic() < deadline:
            time.sleep(0.02)
        try:
            assert not runs(qemu)
        finally:
            if runs(qemu):
                os.kill(qemu, signal.SIGKILL)


def test_the_exit_status_is_qemus() -> None:
    with start("exit $STATUS") as boot:
        assert boot.wait(10) == 7
