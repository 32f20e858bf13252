"""Firmware and whole machines: it boots our disk, a guest that is killed leaves that whole."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.errors import GuestError
from drivebay.guests.linux import LinuxGuest

from .esp import application, system_partition

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

GREETING = b"drivebay says hello\r\n"
SAY = bytes.fromhex(
    "66ba f803"  # mov dx, 0x3f8
    "ac 84c0 7403 ee ebf8"  # next: lodsb; test al, al; jz end; out dx, al; jmp next
    "b010 e6f4 f4"  # end: mov al, 16; out 0xf4, al; hlt
)
"""Writes the text at SI to COM1 and ends QEMU with status 2*16+1. 16-bit code has no 66h."""

# Reads sector 1 by INT 13h extensions, and says what is in it.
BOOT_SECTOR = (
    bytes.fromhex(
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "be407c b442 cd13"  # mov si, 0x7c40; mov ah, 0x42; int 0x13
        "be007e"  # mov si, 0x7e00
    )
    + SAY[1:]
)
ADDRESS_PACKET = bytes.fromhex("1000 0100 007e0000 0100000000000000")

FAR = 1 << 20
"""Where the text is in an EFI application, which firmware reads as a whole."""
EFI_CODE = bytes.fromhex("488d35") + (FAR - 7).to_bytes(4, "little") + SAY  # lea rsi, [rip+...]


def bios_disk() -> bytes:
    sector = (BOOT_SECTOR.ljust(0x40, b"\0") + ADDRESS_PACKET).ljust(510, b"\0") + b"\x55\xaa"
    return (sector + GREETING).ljust(1 << 20, b"\0")


def efi_disk() -> bytes:
    return system_partition(application(EFI_CODE.ljust(FAR, b"\x90") + GREETING + b"\0"))


DISKS = {"seabios": bios_disk, "ovmf": efi_disk}


def boot_by(firmware: str, option: str, folder: Path) -> None:
    """Firmware boots a disk on the controller of `option`, and all that it boots was read there."""
    image = folder / "boot.img"
    image.write_bytes(DISKS[firmware]())
    debug_exit = ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "drivebay.cli.main", "boot", "--firmware", firmware, "--tcg"),
            *("-m", "128M", option, f"file:{image}", "--", *debug_exit),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert GREETING in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.returncode == 33
    assert not done.stderr


@pytest.mark.parametrize("firmware", DISKS)
def test_firmware_boots_from_our_disk(tmp_path: Path, firmware: str) -> None:
    boot_by(firmware, "--virtio-blk", tmp_path)


def test_a_guest_that_ends_in_the_middle_leaves_the_server_and_the_disk(tmp_path: Path) -> None:
    spec = f"file:{tmp_path}/x.img;create=64M"
    with Backend(["--virtio-blk", spec]) as backend:
        guest = LinuxGuest(qemu_args=backend.qemu_arguments())
        guest.start()
        guest.run("echo kept | dd of=/dev/vda bs=512 conv=sync oflag=direct && sync")
        threading.Timer(1.0, guest.kill).start()
        with pytest.raises(GuestError):
            guest.run("while :; do dd if=/dev/zero of=/dev/vda bs=1M seek=1 count=32; done")
        with LinuxGuest(qemu_args=backend.qemu_arguments()) as second:
            assert second.run("head -c 4 /dev/vda").output == "kept"
    assert (tmp_path / "x.img").read_bytes()[:4] == b"kept"
