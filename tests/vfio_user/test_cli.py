"""``drivebay serve --ide``: what it prints works."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.errors import CliError
from drivebay.cli.main import main
from drivebay.testing.vfio_user import Monitor
from tests.cli.support import parse


def test_a_served_ide_function_is_native_and_answers(tmp_path: Path) -> None:
    path = str(tmp_path / "ide.sock")
    with Backend(["--ide", f"mem:1M,socket={path}", "--ide", "mem:2M,dvd,s"]) as backend:
        (line,) = backend.controllers
        assert (line["socket"], line["size"], line["disk"]) == (path, 3 << 20, "mem:1M and mem:2M")
        option, device = line["qemu"]
        assert option == "-device"
        assert json.loads(device) == {
            "driver": "vfio-user-pci",
            "socket": {"type": "unix", "path": path},
        }
        for _ in range(2):
            with Monitor(path) as monitor:
                assert monitor.read(7, 0, 4) == 0x7111_8086
                assert monitor.read(7, 8, 4) == 0x01018F01
                assert monitor.region_info(0)[0].size_ == 8
                monitor.write(0, 6, 1, 0xA0)
                assert monitor.read(0, 7, 1) & 0x40  # DRDY
                monitor.write(2, 6, 1, 0xA0)
                assert (monitor.read(2, 4, 1), monitor.read(2, 5, 1)) == (0x14, 0xEB)  # ATAPI


def test_what_it_prints(tmp_path: Path) -> None:
    serve = [sys.executable, "-m", "drivebay.cli.main", "serve"]
    process = subprocess.Popen(
        [*serve, "--ide", f"mem:1M,socket={tmp_path}/a,b.sock".replace("a,b", "ab")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate()
    assert process.returncode == 0
    assert lines[0].startswith("ide: ide, mem:1M, 1 MiB") or "mem:1M" in lines[0]
    words = shlex.split(lines[2])
    assert words[:2] == ["QEMU", "-device"]
    assert json.loads(words[2])["driver"] == "vfio-user-pci"
    assert "share=on" in rest
    assert "QEMU 10.1" in rest


def test_one_controller_has_one_socket() -> None:
    with pytest.raises(CliError, match="socket=a"):
        parse(ide=["mem:1M,socket=a", "mem:1M,socket=b"])
    (config,) = parse(ide=["mem:1M", "mem:1M,socket=b"])
    assert config.socket == "b"
    (config,) = parse(controller=["ide,id=x,socket=c"], disk=["mem:1M,on=x"])
    assert config.socket == "c"


def test_a_controller_without_drives_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--controller", "ide,id=x"]) == 1
    assert "has no disks" in capsys.readouterr().err


def test_a_disk_that_is_no_dvd_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--ide", "mem:512,dvd"]) == 1
    assert "no DVD" in capfd.readouterr().err
