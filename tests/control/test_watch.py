"""`drivebay inspect --watch` on a terminal, with rich and without."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.inspect import lines
from drivebay.cli.live import Line, Style, _fit, plain
from drivebay.hosts.control.client import Control
from drivebay.hosts.control.messages import CommandState, ControllerState, QueueState, Tree
from drivebay.testing import FrontEnd

WITHOUT_RICH = "import sys; sys.modules['rich'] = None; "
RUN = """
import fcntl, sys, termios
from drivebay.cli.main import main
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.exit(main(sys.argv[1:]))
"""
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b.")


class Terminal:
    """A terminal of 24 lines and 100 columns, on which a program runs."""

    def __init__(self, code: str, *words: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
        )

    def wait_for(self, pattern: str, seconds: float = 60) -> None:
        """Read until it is there, escapes left out; what was before is forgotten."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, ESCAPE.sub("", self.seen), re.DOTALL)):
            assert time.monotonic() < end, f"{pattern} never comes: {self.seen!r}"
            self.read()
        assert found

    def read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            self.seen += os.read(self.master, 1 << 16).decode()

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Its exit status."""
        end = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < end, "it does not end"
            self.read()
        self.read()
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A control socket, and that of a disk that takes its time."""
    path = str(tmp_path / "bay.sock")
    words = ["--virtio-blk", "delay:1000s:mem:1M,ro", "--nvme", "mem:1M", "--control", path]
    with Backend(words) as backend:
        yield path, backend.controllers[0]["socket"]


@pytest.mark.parametrize("code", [RUN, WITHOUT_RICH + RUN], ids=["rich", "plain"])
@pytest.mark.parametrize(("keys", "status"), [(b"q", 0), (b"x\x1b", 0), (b"\x03", 130)])
def test_on_a_terminal(served: tuple[str, str], code: str, keys: bytes, status: int) -> None:
    """Afterwards it is as it was: its other screen gone, its cursor there, each key echoed."""
    path, disk = served
    terminal = Terminal(code, "inspect", path, "--watch", "--interval", "0.1")
    try:
        terminal.wait_for("vda: virtio-blk, no guest.*nvme: nvme, no guest")
        with FrontEnd(disk) as guest:
            guest.submit(0, 8, 512)
            terminal.wait_for(r"vda: virtio-blk, connected.*ring 0  size.*1 under way.*IN  queue 0")
            with Control(path) as bay:
                bay.stop("nvme")
            terminal.wait_for("nvme: nvme, no guest, [^ ]*  stopped")
        terminal.press(keys)
        assert terminal.end() == status
        assert terminal.seen.count("\x1b[?1049h") == terminal.seen.count("\x1b[?1049l") == 1
        assert terminal.seen.rindex("\x1b[?25h") > terminal.seen.rindex("\x1b[?25l")
        assert terminal.seen.count("\x1b[2J") <= 1  # cleared at every look, it would flicker
        assert termios.tcgetattr(terminal.slave) == terminal.before
        assert ("\x1b[1;31m" in terminal.seen) == (code == RUN)
    finally:
        terminal.close()


@pytest.mark.parametrize("code", [RUN, WITHOUT_RICH + RUN], ids=["rich", "plain"])
def test_the_server_goes_first(tmp_path: Path, code: str) -> None:
    path = str(tmp_path / "bay.sock")
    with Backend(["--virtio-blk", "mem:1M", "--control", path]):
        terminal = Terminal(code, "inspect", path, "--watch", "--interval", "0.1")
        try:
            terminal.wait_for("vda: virtio-blk")
            with Control(path) as bay:
                bay.quit()
            assert terminal.end() == 1
            assert "control socket" in terminal.seen.partition("\x1b[?1049l")[2]
            assert termios.tcgetattr(terminal.slave) == terminal.before
        finally:
            terminal.close()


def test_it_may_be_terminated(served: tuple[str, str]) -> None:
    terminal = Terminal(RUN, "inspect", served[0], "--watch")
    try:
        terminal.wait_for("vda: virtio-blk")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == -signal.SIGTERM
    finally:
        terminal.close()


# -- what is shown ---------------------------------------------------------------------------------


def text(line: Line) -> str:
    return "".join(piece for piece, _ in line)


def test_commands_and_queues() -> None:
    flying = [
        CommandState("READ", "queue 1 lba 0+8", 1, 7, 12.34),
        CommandState("FLUSH", "queue 1", 1, 8, 2.0),
        CommandState("WRITE", "queue 1 lba 8+8", 1, 9, 0.0004),
    ]
    queues = [QueueState("sq 1", {"size": 64, "head": 3})]
    one = ControllerState("nvme", "nvme", "/s", True, {"reads": 30}, [], True, queues, 5, flying)
    shown = list(lines(Tree([one]), {"nvme": {"reads": 10}}, 2.0))
    assert [text(line) for line in shown] == [
        "nvme: nvme, connected, /s  stopped",
        "  reads 30 (10/s)",
        "  sq 1  size 64, head 3",
        "  5 under way, the oldest first",
        "    12.3 s  READ  queue 1 lba 0+8  tag 7",
        "     2.0 s  FLUSH  queue 1  tag 8",
        "    0.4 ms  WRITE  queue 1 lba 8+8  tag 9",
        "    and 2 more",
    ]
    assert [line[0][1] for line in shown[4:7]] == [Style.BAD, Style.OLD, Style.PLAIN]


def test_what_does_not_fit_is_said() -> None:
    found = [plain(str(n)) for n in range(10)]
    assert _fit(found, 10) == found
    shown = [text(line) for line in _fit(found, 4)]
    assert shown == ["0", "1", "2", "... 7 lines more, in a taller window"]
