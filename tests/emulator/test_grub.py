"""GRUB boots through SeaBIOS, and its own ATA and ATAPI drivers read the drives."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pycdlib
import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.disk.spec import open_disk
from drivebay.guests.debian import PackageSet, tree
from drivebay.guests.elf import LOADER
from drivebay.guests.errors import GuestError
from drivebay.hosts.emulator.unicorn_cpu import End
from drivebay.scsi.dvd import Dvd
from tests.emulator.conftest import Machine

pytestmark = pytest.mark.guest

GRUB = PackageSet("grub", ("bookworm",), ("grub-pc-bin", "grub-common"), 200)
MODULES = "biosdisk serial terminal echo ls cat hexdump nativedisk ata pata iso9660 halt acpi"
SECTOR = 512
PATTERN_SECTOR = 4096
PATTERN = b"read by GRUB" + bytes(range(256)) * 2

START = """
serial --unit=0 --speed=115200
terminal_output serial
terminal_input serial
nativedisk
"""


@pytest.fixture(scope="module")
def grub() -> Path:
    try:
        return tree(GRUB)
    except GuestError as error:
        pytest.skip(f"GRUB cannot be had: {error}")


def mkimage(grub: Path, folder: Path, kind: str, script: str) -> bytes:
    """GRUB with modules and a script in it, of kind ``i386-pc`` or ``i386-pc-eltorito``."""
    (folder / "script").write_text(START + script + "halt\n")
    libraries = [grub / "lib/x86_64-linux-gnu", grub / "usr/lib/x86_64-linux-gnu"]
    command = [
        *(grub / "lib64" / LOADER, "--library-path", ":".join(map(str, libraries))),
        *(grub / "usr/bin/grub-mkimage", "-d", grub / "usr/lib/grub/i386-pc"),
        *("-O", kind, "-p", "/", "-c", folder / "script", "-o", folder / "core", *MODULES.split()),
    ]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return (folder / "core").read_bytes()


def disk(grub: Path, core: bytes) -> bytes:
    """A disk with GRUB in its first sectors and the pattern further behind.

    The boot sector loads sector 1, and that the rest, as a list at its end says: first sector,
    number of sectors; the segment is set already.
    """
    boot = bytearray((grub / "usr/lib/grub/i386-pc/boot.img").read_bytes())
    boot[510:] = b"\x55\xaa"
    sectors = -(-len(core) // SECTOR) - 1
    core = core[:500] + (2).to_bytes(8, "little") + sectors.to_bytes(2, "little") + core[510:]
    image = (bytes(boot) + core).ljust(PATTERN_SECTOR * SECTOR, b"\0") + PATTERN
    return image.ljust(4 << 20, b"\0")


def test_disks(machine: Machine, grub: Path, tmp_path: Path) -> None:
    """Two disks on one channel."""
    script = f"hexdump -n 16 (ata0){PATTERN_SECTOR}+1\nhexdump -n 16 (ata1){PATTERN_SECTOR}+1\n"
    image = disk(grub, mkimage(grub, tmp_path, "i386-pc", script))
    for unit in (0, 1):
        path = tmp_path / f"{unit}.img"
        path.write_bytes(image)
        machine.ide.attach(0, unit, AtaDisk(open_disk(f"file:{path}"), machine.engine))
    assert machine.cpu.run(60) is End.EXITED
    assert machine.pc.exit_status == 0
    shown = machine.serial.decode(errors="replace")
    assert shown.count("|read by GRUB....|") == 2, shown


def test_cd(machine: Machine, grub: Path, tmp_path: Path) -> None:
    """Booted from the CD on the secondary channel, and a file is read from it."""
    core = mkimage(grub, tmp_path, "i386-pc-eltorito", "ls (ata2)/\ncat (ata2)/hello.txt\n")
    iso, hello = pycdlib.PyCdlib(), b"hello from a file\n" * 100 + b"the end\n"
    iso.new(interchange_level=3)
    iso.add_fp(io.BytesIO(core), len(core), "/BOOT.;1")
    iso.add_fp(io.BytesIO(hello), len(hello), "/HELLO.TXT;1")
    iso.add_eltorito("/BOOT.;1", boot_load_size=4, boot_info_table=True)
    iso.write(str(tmp_path / "cd.iso"))
    iso.close()
    drive = PacketDevice(Dvd(open_disk(f"file:{tmp_path / 'cd.iso'}", True)), machine.engine)
    machine.ide.attach(1, 0, drive)
    assert machine.cpu.run(60) is End.EXITED
    shown = machine.serial.decode(errors="replace")
    assert "hello.txt" in shown
    assert shown.count("hello from a file") == 100
    assert "the end" in shown
