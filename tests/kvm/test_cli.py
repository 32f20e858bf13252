"""``drivebay boot --host kvm``."""

from __future__ import annotations

import json
import os
import struct
import termios
from collections.abc import Sequence
from pathlib import Path

import pytest

from drivebay.cli.main import main
from drivebay.hosts.kvm.linux import (
    PT_LOAD,
    SETUP_HEADER,
    X86_64,
    ElfHeader,
    ProgramHeader,
    SetupHeader,
)
from tests.emulator.test_cli import EXIT_7, image

KERNEL = 0x1000000


def boot(*options: str) -> int:
    return main(["boot", "--host", "kvm", "-m", "32M", *options])


def kernel(code: str, *, address: int = KERNEL, machine: int = X86_64, memory: int = 0) -> bytes:
    """An ELF image with one part."""
    body = bytes.fromhex(code.replace(" ", ""))
    at = ElfHeader.size + ProgramHeader.size
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    elf = ElfHeader(ident, 2, machine, 1, address, ElfHeader.size, 0, 0, 64, 56, 1, 0, 0, 0)
    size = memory or len(body) + 4096
    part = ProgramHeader(PT_LOAD, 5, at, address, address, len(body), size, 4096)
    return elf.pack() + part.pack() + body


def bzimage(code: str, **fields: int) -> bytes:
    """One that has nothing to unpack."""
    wanted = {"xloadflags": 1, "init_size": 1 << 20, "pref_address": KERNEL, **fields}
    head = bytes(SETUP_HEADER) + SetupHeader(setup_sects=4, **wanted).pack()  # type: ignore[arg-type]
    return head.ljust(5 * 512, b"\0") + bytes(0x200) + bytes.fromhex(code.replace(" ", ""))


# A kernel that says what it was told: its command line, the first byte of its initial file system,
# and the first of the ACPI tables. RSI is the zero page.
SAY_IT = (
    "8B9E 28020000 BA F8030000"  # mov ebx, [rsi+228h]; mov edx, 3F8h
    "8A03 84C0 7405 EE FFC3 EBF5"  # next: al = [rbx], if not 0 out, inc ebx
    "8B9E 18020000 8A03 EE"  # ramdisk_image
    "488B5E70 8A03 EE 8A4301 EE"  # acpi_rsdp_addr
    "B003 E6F4 F4"
)


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize("content", [kernel(SAY_IT), bzimage(SAY_IT)], ids=["ELF", "bzImage"])
def test_a_kernel_is_told_what_it_needs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    image, initrd = tmp_path / "vmlinux", tmp_path / "initrd"
    image.write_bytes(content)
    initrd.write_bytes(b"!")
    line = ["--kernel", str(image), "--initrd", str(initrd), "--append", "hello=1", "--json"]
    assert boot(*line, "--virtio-blk", "mem:1M", "--cpus", "2") == 3
    outcome = json.loads(capfd.readouterr().out)
    assert (outcome["end"], outcome["status"]) == ("exited", 3)
    assert outcome["serial"] == "hello=1!RS"


# It says what it hears, and ends with a 'q'.
ECHO = "BA FD030000 EC A801 74F6 BA F8030000 EC EE 3C71 75EB B005 E6F4 F4"


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize(
    ("typed", "status", "said"),
    [(b"a \x01\x01 b q", 5, "a \x01 b q"), (b"\x01x", 0, "")],
    ids=["to the end", "left by Ctrl-A X"],
)
def test_the_serial_port_is_this_terminal(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    typed: bytes,
    status: int,
    said: str,
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel(ECHO))
    master, slave = os.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        before = termios.tcgetattr(slave)
        os.write(master, typed)
        assert boot("--kernel", str(path)) == status
        assert termios.tcgetattr(slave) == before
    os.close(master)
    assert capfd.readouterr().out == said


@pytest.mark.usefixtures("kvm", "seabios")
def test_firmware_boots(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert boot("--ide", image(tmp_path, then=EXIT_7), "--cpus", "2") == 7
    out, err = capfd.readouterr()
    assert "Booting from Hard Disk" in out  # of which SeaBIOS is not done when we say hello
    assert "ata0-0: drivebay ATA disk" in err
    assert "Found 2 cpu(s)" in err


@pytest.mark.usefixtures("kvm")
def test_a_guest_that_cannot_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(kernel("48B8 0000000000000100 FFE0"))  # jump to an address that is none
    assert boot("--kernel", str(path)) == 1
    error = capfd.readouterr().err
    assert "error: CPU 0 at 0010:" in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (kernel("F4", machine=3), "no ELF image for x86-64"),
        (kernel("F4", address=0x8000), "has a part at 0x8000"),
        (kernel("F4", memory=64 << 20), "does not fit into memory"),
        (kernel("F4")[:-1], "is cut off"),
        (kernel("F4")[:70], "is cut off"),
        (bzimage("F4", xloadflags=0), "no bzImage for x86-64, and no ELF image"),
        (bzimage("F4", init_size=64 << 20), "does not fit into memory"),
        (bzimage("F4", pref_address=0x8000), "below 1 MiB"),
        (bzimage("F4")[: 5 * 512 + 0x200], "is cut off"),
        (bytes(1000), "no bzImage for x86-64, and no ELF image"),
        (b"F4", "is cut off"),
    ],
)
def test_no_kernels(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    assert boot("--kernel", str(path)) == 1
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--append", "quiet"], "are for a kernel"),
        (["--kernel", __file__, "--firmware", "seabios"], "two ways to boot"),
        (["--ide", "mem:1M", "--run", "true"], "without QEMU"),
        (["--cpus", "256"], "up to 255"),
    ],
)
def test_mistakes(options: Sequence[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert boot(*options) == 1
    assert message in capfd.readouterr().err


def test_the_zero_page_is_as_the_boot_protocol_says() -> None:
    """Documentation/arch/x86/boot.rst: offsets of the setup header."""
    page = (
        bytes(SETUP_HEADER)
        + SetupHeader(
            ramdisk_image=1, ramdisk_size=2, cmd_line_ptr=3, initrd_addr_max=4, cmdline_size=5
        ).pack()
    )
    assert page[0x1FE:0x200] == b"\x55\xaa"
    assert page[0x202:0x206] == b"HdrS"
    assert page[0x210:0x212] == b"\xff\x01"
    assert struct.unpack_from("<II", page, 0x218) == (1, 2)
    assert struct.unpack_from("<II", page, 0x228) == (3, 4)
    assert struct.unpack_from("<I", page, 0x238) == (5,)
    page = bytes(SETUP_HEADER) + SetupHeader(pref_address=6, init_size=7, xloadflags=8).pack()
    assert struct.unpack_from("<QI", page, 0x258) == (6, 7)
    assert page[0x236] == 8
