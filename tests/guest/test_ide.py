"""IDE in PCI native mode over vfio-user, with Linux's ata_piix, SeaBIOS and OVMF under QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

from .test_boot import DISKS, boot_by

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FILE_SYSTEM = """set -e
mkfs.ext4 -q -F /dev/sda
mkdir -p /mnt
mount /dev/sda /mnt
dd if=/dev/urandom of=/mnt/a bs=1M count=4 2>/dev/null
cp /mnt/a /mnt/b
sync
echo 3 >/proc/sys/vm/drop_caches
cmp /mnt/a /mnt/b
umount /mnt
fsck.ext4 -f -n /dev/sda
dmesg | grep -E 'ata[0-9].*(error|exception|failed|lost)' && exit 1
ls -d /sys/bus/pci/drivers/ata_piix/0000:*
"""


class UnsharedGuest(LinuxGuest):
    """A guest in memory of its own, as QEMU gives it unless told."""

    def command(self, append: str = "") -> list[str]:
        words = super().command(append)
        at = words.index("-object")
        del words[at : at + 2]
        return [word.replace(",memory-backend=mem", "") for word in words]


@pytest.mark.parametrize("guest_class", [LinuxGuest, UnsharedGuest])
def test_linux_keeps_a_file_system_on_an_ide_disk(
    tmp_path: Path, guest_class: type[LinuxGuest], capfd: pytest.CaptureFixture[str]
) -> None:
    disk = f"file:{tmp_path}/disk.img;create=32M"
    with (
        Backend(["--ide", disk]) as backend,
        guest_class(qemu_args=backend.qemu_arguments()) as guest,
    ):
        result = guest.run(FILE_SYSTEM, timeout=300)
    assert result.status == 0, result.output
    told = "memory-backend-memfd" in capfd.readouterr().err
    assert told == (guest_class is UnsharedGuest)


def test_linux_sees_all_four_drives(tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(b"compact disc".ljust(1 << 20, b"\0"))
    drives = [
        "mem:1M,model=First",
        "mem:2M,model=Second",
        f"file:{tmp_path}/cd.iso,dvd",
        "mem:3M,ro",
    ]
    words = [word for drive in drives for word in ("--ide", drive)]
    with (
        Backend(words) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        listed = guest.run("lsblk --json -b -o NAME,SIZE,TYPE,MODEL").output
        found = json.loads(listed)["blockdevices"]
        disks = sorted(  # Linux names them in the order in which their channels happen to answer
            (each["size"] >> 20, (each["model"] or "").strip())
            for each in found
            if each["type"] == "disk" and each["name"].startswith("sd")
        )
        assert [size for size, _ in disks] == [1, 2, 3]
        assert [model for _, model in disks[:2]] == ["First", "Second"]
        assert [each["name"] for each in found if each["type"] == "rom"] == ["sr0"]
        assert guest.run("head -c 12 /dev/sr0").output == "compact disc"


def test_linux_writes_and_reads_by_pio() -> None:
    """A sector takes 256 accesses of its data port, so it is not much."""
    script = """set -e
dd if=/dev/urandom of=/tmp/a bs=4K count=8
dd if=/tmp/a of=/dev/sda bs=4K oflag=direct
dd if=/dev/sda of=/tmp/b bs=4K count=8 iflag=direct
cmp /tmp/a /tmp/b
grep XFER_PIO_4 /sys/class/ata_device/dev*/xfer_mode
"""
    with (
        Backend(["--ide", "mem:1M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), append="libata.dma=0") as guest,
    ):
        result = guest.run(script, timeout=200)
    assert result.status == 0, result.output


@pytest.mark.parametrize("firmware", DISKS)
def test_firmware_boots_from_an_ide_disk(tmp_path: Path, firmware: str) -> None:
    boot_by(firmware, "--ide", tmp_path)


def test_boot_runs_a_command_on_an_ide_disk() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "drivebay.cli.main", "boot", "--ide", "mem:8M"),
            *("--run", "echo of=$(cat /sys/block/sda/size)"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "of=16384" in done.stdout
