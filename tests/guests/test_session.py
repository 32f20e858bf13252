"""The line to a guest, with a process in the guest's place that speaks as init.sh does."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from drivebay.guests.errors import GuestError
from drivebay.guests.session import Session

INIT = r"""
import base64, os, subprocess, sys, time
line = os.fdopen(int(sys.argv[1]), "r+b", buffering=0)
line.write(b"ready\n")
reader = os.fdopen(os.dup(line.fileno()), "rb")
for request in reader:
    token, _, script = request.partition(b" ")
    if request == b"poweroff\n":
        sys.exit(0)
    done = subprocess.run(["sh", "-c", base64.b64decode(script)], stdout=line, stderr=line)
    if done.returncode == 99:
        print("Kernel panic - not syncing: for a test", flush=True)
        sys.exit(0)
    line.write(b"\0" + token + b" %d\n" % done.returncode)
"""


@pytest.fixture
def session() -> Iterator[Session]:
    control, guest = socket.socketpair()
    with guest:
        session = Session(
            [sys.executable, "-c", INIT, str(guest.fileno())],
            control=control,
            pass_fds=(guest.fileno(),),
        )
    session.wait_ready(30)
    yield session
    session.kill()


def test_status_and_output_of_each_command(session: Session) -> None:
    first = session.run("echo out; echo err >&2; exit 3")
    assert (first.status, first.output) == (3, "out\nerr\n")
    assert session.run("printf 'no newline'").output == "no newline"
    assert session.run("true").output == ""


def test_output_comes_as_it_is_written(session: Session) -> None:
    chunks: list[tuple[float, bytes]] = []
    result = session.run(
        "printf a; sleep 0.5; echo b",
        on_output=lambda data: chunks.append((time.monotonic(), data)),
    )
    assert b"".join(data for _, data in chunks).decode() == result.output
    assert chunks[-1][0] - chunks[0][0] > 0.3


def test_output_may_hold_anything_but_the_mark(session: Session) -> None:
    shown: list[bytes] = []
    result = session.run(r"printf '\0\0abc \0 0\n\377'", on_output=shown.append)
    assert result.output == "\0\0abc \0 0\n\ufffd"
    assert b"".join(shown) == b"\0\0abc \0 0\n\xff"


def test_a_guest_that_ends_by_itself(session: Session) -> None:
    with pytest.raises(GuestError, match=r"ended by itself \(killed by signal 9\)"):
        session.run("kill -9 $PPID; sleep 1")


def test_a_panic_is_told_with_the_console(session: Session) -> None:
    with pytest.raises(GuestError, match="panicked") as caught:
        session.run("exit 99")
    assert "not syncing: for a test" in caught.value.console


def test_a_guest_that_does_not_answer_is_ended(session: Session) -> None:
    with pytest.raises(GuestError, match="did not answer in time"):
        session.run("sleep 60", timeout=0.5)
    assert session.process.returncode is not None
    with pytest.raises(GuestError):
        session.run("true")


def test_close_waits_for_the_power_off(session: Session) -> None:
    session.close()
    assert session.process.returncode == 0


def test_the_guest_ends_when_its_owner_is_killed() -> None:
    owner = """
import os, socket
from drivebay.guests.session import Session
control, guest = socket.socketpair()
session = Session(["sleep", "600"], control=control, pass_fds=())
print(session.process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-c", owner], check=False, stdout=subprocess.PIPE, text=True
    )
    guest = int(done.stdout)
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError):
            os.kill(guest, 0)
            time.sleep(0.05)
            continue
        return
    os.kill(guest, 9)
    pytest.fail("the guest is still there")
