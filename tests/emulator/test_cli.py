"""``drivebay boot --host unicorn``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from drivebay.cli.main import main
from tests.emulator.x86 import Code, begin, end, say

EXIT_7 = "B007 E6F4"  # mov al, 7; out 0F4h, al


def image(tmp_path: Path, *, then: str = "") -> str:
    """A disk whose boot sector speaks to the serial port, then runs `then`."""
    code: Code = begin()
    say(code, "hello")
    end(code(then)).data("hello", b"hello\n\0")
    path = tmp_path / "disk.img"
    path.write_bytes(code.sector().ljust(1 << 20, b"\0"))
    return f"file:{path}"


def boot(disk: str, *options: str, on: str = "--ide") -> int:
    return main(["boot", "--host", "unicorn", on, disk, "-m", "32M", *options])


@pytest.mark.usefixtures("seabios")
def test_a_guest_that_halts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert boot(image(tmp_path)) == 0
    out, err = capfd.readouterr()
    assert "Booting from Hard Disk" in out
    assert out.endswith("hello\n")
    assert "ata0-0: drivebay ATA disk" in err


@pytest.mark.usefixtures("seabios")
@pytest.mark.parametrize("on", ["--ahci", "--nvme", "--virtio-blk", "--scsi"])
def test_every_controller_boots(tmp_path: Path, capfd: pytest.CaptureFixture[str], on: str) -> None:
    assert boot(image(tmp_path, then=EXIT_7), on=on) == 7
    assert capfd.readouterr().out.endswith("hello\n")


@pytest.mark.usefixtures("seabios")
def test_a_guest_that_exits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert boot(image(tmp_path, then=EXIT_7), "--json") == 7
    outcome = json.loads(capfd.readouterr().out)
    assert (outcome["end"], outcome["status"]) == ("exited", 7)
    assert outcome["serial"].endswith("hello\n")
    assert "SeaBIOS" in outcome["debug"]


@pytest.mark.usefixtures("seabios")
def test_a_guest_that_does_not_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert boot(image(tmp_path, then="EBFE"), "--timeout", "1") == 1
    assert "not ended in 1 s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nvme", "mem:1M,socket=/tmp/nvme.sock"], "in this process has none"),
        (["--controller", "virtio-blk,id=vda"], "controller vda has no disks"),
        (["--ide", "mem:1M", "--run", "true"], "without QEMU"),
        (["--ide", "mem:1M", "--kvm"], "without QEMU"),
        (["--ide", "mem:1M", "--cpus", "2"], "on one CPU"),
        (["--ide", "mem:1M", "--kernel", __file__], "on one CPU"),
        (["--ide", "mem:1M,on-error=stop"], "let the guest go on"),
        (["--ide", "mem:1M", "--firmware", "/nowhere"], "no such file"),
        (["--ide", "mem:1M", "--firmware", "/dev/null"], "no such file"),
        (["--ide", "mem:1M", "-m", "3G", "--firmware", __file__], "1M to 2048M"),
    ],
)
def test_mistakes(options: Sequence[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", "--host", "unicorn", *options]) == 1
    assert message in capfd.readouterr().err


def test_code_that_no_cpu_can_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """lgdt and protected mode, without a table: a fault that has no handler."""
    path = tmp_path / "firmware"
    reset = bytes.fromhex("0F20C0 6683C801 0F22C0 0F0B".replace(" ", ""))  # PE, then ud2
    path.write_bytes(bytes(0x1000 - 16) + reset.ljust(16, b"\0"))
    assert boot("mem:1M", "--firmware", str(path)) == 1
    assert "protected mode" in capfd.readouterr().err
