"""``drivebay qtest`` as a process: how it begins and ends, and tests that misbehave."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .libqtest import TIMEOUT, Qtest

PC = ("--machine", "pc", "--ide", "mem:1M")


def ends(qtest: Qtest, status: int = 0) -> None:
    """It ends by itself, without a word."""
    _, errors = qtest.process.communicate(timeout=TIMEOUT)
    assert (qtest.process.returncode, errors) == (status, "")


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_the_end(tmp_path: Path, number: signal.Signals) -> None:
    with Qtest(tmp_path, *PC) as qtest:
        qtest.process.send_signal(number)
        assert qtest.event("SHUTDOWN")["reason"] == "host-signal"
        ends(qtest)


def test_the_signal_may_come_as_soon_as_we_are_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(TIMEOUT)
        command = ["-m", "drivebay.cli.main", "qtest", "--qtest", str(tmp_path / "s")]
        process = subprocess.Popen([sys.executable, *command])
        connection, _ = listener.accept()
        process.terminate()
        assert process.wait(TIMEOUT) == 0
        connection.close()


def test_quit_is_the_end(tmp_path: Path) -> None:
    with Qtest(tmp_path, *PC) as qtest:
        assert qtest.execute("quit") == {}
        assert qtest.event("SHUTDOWN")["reason"] == "host-qmp-quit"
        ends(qtest)


@pytest.mark.parametrize("last", [b"", b"outb 0x1f6 0", b"read 0x0 0x100000\n" * 50])
def test_a_test_that_hangs_up_is_the_end(tmp_path: Path, last: bytes) -> None:
    """Before, in the middle of a line, and with answers on their way."""
    with Qtest(tmp_path, *PC) as qtest:
        qtest.socket.sendall(last)
        qtest.socket.close()
        ends(qtest)


def test_qmp_that_hangs_up_is_not_missed(tmp_path: Path) -> None:
    with Qtest(tmp_path, *PC) as qtest:
        assert qtest.qmp is not None
        qtest.qmp.sendall(b'{"execute": "st')
        qtest.qmp.shutdown(socket.SHUT_RDWR)
        assert qtest.inp("b", 0x1F7) & 0x40


def test_qtest_alone_will_do(tmp_path: Path) -> None:
    with Qtest(tmp_path, *PC, qmp=False) as qtest:
        assert qtest.inp("b", 0x1F7) & 0x40


def test_the_signal_comes_while_answers_wait(tmp_path: Path) -> None:
    """The test reads nothing: what it asked for waits, but the end does not."""
    with Qtest(tmp_path, *PC) as qtest:
        qtest.socket.sendall(b"read 0x0 0x100000\n" * 100)
        assert qtest.execute("query-status")["running"] is True
        assert memory(qtest.process.pid) < 300 << 20


def test_the_signal_comes_while_lines_wait(tmp_path: Path) -> None:
    """What takes a minute in all does not keep us from ending."""
    with Qtest(tmp_path, *PC) as qtest:
        qtest.socket.sendall(b"memset 0x0 0x1000000 0x1\n" * 2500)
        assert qtest.execute("query-status")["running"] is True
        start = time.monotonic()
        qtest.process.terminate()
        ends(qtest)
        assert time.monotonic() - start < 20


def memory(pid: int) -> int:
    """Bytes of memory that a process has touched, without its guest's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def test_qmp_events_that_nobody_reads_do_not_grow_for_ever(tmp_path: Path) -> None:
    with Qtest(tmp_path, *PC) as qtest:
        assert qtest.qmp is not None
        qtest.qmp.settimeout(0.5)
        with pytest.raises((TimeoutError, BrokenPipeError, ConnectionResetError)):
            while True:
                qtest.qmp.sendall(b'{"execute": "query-commands"}\n' * 1000)
                assert memory(qtest.process.pid) < 500 << 20
        assert qtest.inp("b", 0x1F7) & 0x40


# -- what comes ----------------------------------------------------------------------------------


def test_garbage_is_answered_and_survived(tmp_path: Path) -> None:
    dice = random.Random(1)
    with Qtest(tmp_path, *PC) as qtest:
        assert qtest.qmp is not None
        for _ in range(50):
            noise = dice.randbytes(200).replace(b"\n", b"")
            assert qtest.ask(noise).startswith("FAIL ")
            qtest.qmp.sendall(b"\xff" + dice.randbytes(50).translate(None, b'{}[]"\n') + b"\n")
            assert "error" in qtest.reply()
        assert qtest.ask("read 0 0xffffffffffff").startswith("FAIL ")
        assert qtest.ok("endianness") == "little"
        assert qtest.execute("query-status")["running"] is True


def test_many_lines_at_once_are_answered_in_order(tmp_path: Path) -> None:
    with Qtest(tmp_path, *PC) as qtest:
        qtest.socket.sendall(b"".join(b"writel 0x%x 0x%x\n" % (4 * n, n) for n in range(5000)))
        assert [qtest.line() for _ in range(5000)] == ["OK"] * 5000
        for start in range(0, 5000, 500):
            asked = range(start, start + 500)
            qtest.socket.sendall(b"".join(b"readl 0x%x\n" % (4 * n) for n in asked))
            assert [int(qtest.line()[3:], 0) for _ in asked] == list(asked)


def test_large_data(tmp_path: Path) -> None:
    data = random.Random(2).randbytes(4 << 20)
    with Qtest(tmp_path, *PC) as qtest:
        qtest.store(0x100000, data)
        assert qtest.memory(0x100000, len(data)) == data


# -- the command line ----------------------------------------------------------------------------


MISTAKES = {
    "no socket": ([], "Missing option '--qtest'", "--help"),
    "nobody listens": (["--qtest", "/nowhere/q"], "/nowhere/q: No such file", "must listen"),
    "a path that is too long": (["--qtest", "/" + "x" * 200], "too long", "must listen"),
    "no such machine": (["--qtest", "/q", "--machine", "isapc"], "'isapc' is not one of", None),
    "no size": (["--qtest", "/q", "--m", "1Q"], "'1Q'", "a size is"),
    "too little memory": (["--qtest", "/q", "--m", "4K"], "--m 4K", "1M to 2048M"),
    "too much memory": (["--qtest", "/q", "--m", "64G"], "--m 64G", "1M to 2048M"),
    "IDE on virt": (
        ["--qtest", "/q", "--machine", "virt", "--ide", "mem:1M"],
        "no place for ide",
        "virtio-blk",
    ),
    "virtio on a pc": (["--qtest", "/q", "--virtio-blk", "mem:1M"], "no place for", "for ide"),
    "IDE on q35": (
        ["--qtest", "/q", "--machine", "q35", "--ide", "mem:1M"],
        "no place for ide",
        "for ahci",
    ),
    "a seventh port": (
        ["--qtest", "/q", "--machine", "q35", "--ahci", "mem:1M,port=6"],
        "Bus 'ide.6' not found",
        None,
    ),
    "two transports": (
        ["--qtest", "/q", "--machine", "virt", *["--virtio-blk", "mem:1M"] * 2],
        "one virtio-mmio transport",
        "leave one",
    ),
    "legacy on a pc": (["--qtest", "/q", "--legacy"], "no sense", "--machine virt"),
    "a socket for a controller": (
        ["--qtest", "/q", "--machine", "virt", "--virtio-blk", "mem:1M,socket=/x"],
        "socket=/x",
        "there is none",
    ),
    "five drives": (["--qtest", "/q", *["--ide", "mem:1M"] * 5], "5 IDE drives", "two drives"),
    "two in one place": (["--qtest", "/q", *["--ide", "mem:1M,p,0"] * 2], "taken by", "p,1"),
    "a DVD of half a block": (["--qtest", "/q", "--ide", "mem:3K,dvd"], "no DVD", "2048"),
    "more than 2^48 sectors": (
        ["--qtest", "/q", "--ide", "mem:256P"],
        "more than an ATA drive",
        "2^48",
    ),
    "just 2^48 sectors": (["--qtest", "/q", "--ide", "mem:128P"], "ATA", None),
    "an unknown option": (["--qtest", "/q", "--ide", "mem:1M,turbo"], "expected one of p", None),
}


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_a_hint(
    arguments: list[str], message: str, hint: str | None
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drivebay.cli.main", "qtest", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[0].startswith("drivebay: error: ")
    assert message in lines[0]
    assert len(lines) <= 2
    if hint:
        assert hint in lines[1]


def test_qemus_way_to_name_a_socket(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        listener.settimeout(TIMEOUT)
        command = ["-m", "drivebay.cli.main", "qtest", "--qtest", f"unix:{tmp_path}/s"]
        process = subprocess.Popen([sys.executable, *command])
        listener.accept()[0].close()
        assert process.wait(TIMEOUT) == 0


def test_no_descriptor_is_left_in_a_child(tmp_path: Path) -> None:
    """Sockets are close-on-exec, as everything here."""
    with Qtest(tmp_path, *PC) as qtest:
        folder = f"/proc/{qtest.process.pid}/fdinfo"
        for fd in os.listdir(folder):
            if int(fd) > 2:
                (flags,) = (
                    line for line in Path(folder, fd).read_text().splitlines() if "flags" in line
                )
                assert int(flags.split()[1], 8) & os.O_CLOEXEC, fd
