"""SeaBIOS' floppy driver boots from drive A, and boot sectors work it by INT 13h."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drivebay.cli.main import main
from drivebay.controllers.floppy import MEDIA, FloppyDrive, Medium
from drivebay.disk.spec import open_disk
from drivebay.guests.errors import GuestError
from tests.emulator.conftest import Machine
from tests.emulator.x86 import Code, begin, end, say

PATTERN = bytes(range(256)) * 2
BUFFER = 0x9000
FIRMWARE_KNOWS = [
    medium for medium in MEDIA if medium.name in ("360K", "720K", "1.2M", "1.44M", "2.88M")
]


def int13(code: Code, ax: int, cylinder: int, head: int, sector: int) -> Code:
    """AH and AL by C, H, S of the boot drive, with BUFFER; carry is a failure."""
    code(f"BB {BUFFER.to_bytes(2, 'little').hex()}")  # mov bx, BUFFER
    code(f"B8 {ax.to_bytes(2, 'little').hex()} B9 {sector:02x}{cylinder:02x}")  # mov ax; mov cx
    return code(f"B6{head:02x} 8A16 {{drive}} CD13 0F82 (failed)")  # mov dh; mov dl; int; jc


def image(path: Path, boot: bytes, medium: Medium) -> Path:
    """A pattern is on the last sector of track 0's second side."""
    data = bytearray(medium.byte_count)
    data[:512] = boot
    last = (2 * medium.sectors - 1) * 512
    data[last : last + 512] = PATTERN
    path.write_bytes(data)
    return path


def writer(medium: Medium) -> Code:
    """Reads the pattern, writes it to cylinder 39, reads that back and says what is in it."""
    code = begin()
    say(code, "hello")
    int13(code, 0x0201, 0, 1, medium.sectors)
    int13(code, 0x0301, 39, 0, 3)
    code(f"BF {BUFFER.to_bytes(2, 'little').hex()} B90002 30C0 FC F3AA")  # rep stosb: 512 zeroes
    int13(code, 0x0201, 39, 0, 3)
    code(f"803E {(BUFFER + 0x41).to_bytes(2, 'little').hex()} 41 0F85 (failed)")  # cmp byte; jne
    say(code, "ok")
    end(code)
    return code.data("hello", b"hello from the floppy\n\0").data("ok", b"OK\n\0")


@pytest.mark.parametrize("medium", FIRMWARE_KNOWS, ids=lambda medium: medium.name)
def test_a_floppy_boots_reads_and_writes(machine: Machine, tmp_path: Path, medium: Medium) -> None:
    path = image(tmp_path / "a.img", writer(medium).sector(), medium)
    disk = open_disk(f"file:{path}")
    machine.pc.attach_floppy(0, FloppyDrive(disk))
    assert machine.boot() == "hello from the floppy\nOK\n"
    at = ((39 * 2) * medium.sectors + 2) * 512
    assert path.read_bytes()[at : at + 512] == PATTERN
    assert b"Booting from Floppy" in machine.debug
    disk.close()


def test_a_protected_floppy_is_not_written(machine: Machine, tmp_path: Path) -> None:
    medium = FIRMWARE_KNOWS[0]
    path = image(tmp_path / "a.img", writer(medium).sector(), medium)
    before = path.read_bytes()
    disk = open_disk(f"file:{path}", read_only=True)
    machine.pc.attach_floppy(0, FloppyDrive(disk))
    assert machine.boot() == "hello from the floppy\nFAILED"
    assert path.read_bytes() == before
    disk.close()


def test_the_second_drive_is_found(machine: Machine, tmp_path: Path) -> None:
    """INT 13h AH=08h of drive 0 says how many there are, and AH=15h of drive 1 what it is."""
    code = begin()
    code("B408 B200 CD13 0F82 (failed) 80FA02 0F85 (failed)")  # cmp dl, 2; jne
    code("B415 B201 CD13 0F82 (failed) 80FC01 0F85 (failed)")  # cmp ah, 1: no change line; jne
    say(code, "ok")
    end(code)
    code.data("ok", b"two\n\0")
    medium = MEDIA[3]
    disk = open_disk(f"file:{image(tmp_path / 'a.img', code.sector(), medium)}")
    machine.pc.attach_floppy(0, FloppyDrive(disk))
    machine.pc.attach_floppy(1, FloppyDrive())
    assert machine.boot() == "two\n"
    disk.close()


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    medium = MEDIA[3]
    path = image(tmp_path / "a.img", writer(medium).sector(), medium)
    line = ["boot", "--host", "unicorn", "--floppy", f"file:{path}", "-m", "32M", "--json"]
    try:
        status = main(line)
    except GuestError as error:
        pytest.skip(f"SeaBIOS cannot be had: {error}")
    assert status == 0
    said = json.loads(capfd.readouterr().out)
    assert said["serial"].endswith("hello from the floppy\nOK\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--floppy mem:1M", "1048576 bytes are no floppy disk"),
        ("--floppy mem:720K --floppy mem:720K --floppy mem:720K", "3 floppy drives"),
        ("--floppy mem:720K,serial=1", "serial"),
        ("--floppy mem:720K --strict fd", "all or floppy"),
        ("--ide mem:1M --strict floppy", "all or ide"),
    ],
)
def test_mistakes(capfd: pytest.CaptureFixture[str], options: str, said: str) -> None:
    assert main(["boot", "--host", "unicorn", *options.split()]) == 1
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["floppy", "all"])
def test_strict(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """SeaBIOS does nothing wrong; a boot sector asks for a command that there is not."""
    medium = next(medium for medium in MEDIA if medium.name == "1.44M")
    code = end(begin()("BAF503 B0FF EE"))  # mov dx, 3F5h; mov al, FFh; out
    disk = f"file:{image(tmp_path / 'a.img', code.sector(), medium)}"
    assert main(["boot", "--host", "unicorn", "--floppy", disk, "--strict", name]) == 0
    [line] = [line for line in caplog.messages if "82077AA" in line]
    assert "opcode 0xff: there is no such command (no-such-command" in line


def test_machines_that_have_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["boot", "--floppy", "mem:720K", "--virtio-blk", "mem:1M"]) == 1
    assert "--host unicorn has the controller" in capfd.readouterr().err
    assert main(["qtest", "--machine", "q35", "--qtest", "/nowhere", "--floppy", "mem:720K"]) == 1
    assert "--machine pc has one" in capfd.readouterr().err
