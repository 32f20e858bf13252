"""NVMe over vfio-user, with Linux's driver under QEMU."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.boot import FIRMWARE
from drivebay.guests.kernel import Kernel
from drivebay.guests.linux import LinuxGuest

from .test_boot import DISKS, boot_by

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

VERIFY = (
    "fio --name=v --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio --iodepth={} --rw=randwrite"
    " --bs={} --size=16M --verify=crc32c --do_verify=1 --verify_fatal=1"
)
ADMIN = """
set -e
n=/dev/nvme0
nvme list-ns $n | tee /dev/stderr
nvme smart-log $n
nvme error-log $n | head -5
nvme fw-log $n
nvme effects-log $n | head -3
nvme get-feature $n -f 7
nvme get-feature $n -f 4
echo data > /tmp/data; truncate -s 4096 /tmp/data
nvme write ${n}n1 -s 0 -c 7 -z 4096 -d /tmp/data
nvme compare ${n}n1 -s 0 -c 7 -z 4096 -d /tmp/data
nvme copy ${n}n1 --sdlba=8 --slbs=0 --blocks=7
cmp -n 4096 /tmp/data /dev/nvme0n1
nvme verify ${n}n1 -s 0 -c 7
nvme write-zeroes ${n}n1 -s 0 -c 7
nvme dsm ${n}n1 --ad --slbs=8 --blocks=8
nvme flush ${n}n1
nvme fw-download $n --fw=/tmp/data
nvme fw-commit $n --slot=2 --action=3
nvme fw-log $n
nvme sanitize $n --sanact=2
sleep 1
nvme sanitize-log $n
nvme format ${n}n1 --lbaf=1 --force
nvme reset $n
nvme subsystem-reset $n || true
"""


def test_linux_keeps_a_file_system_on_a_namespace(tmp_path: Path) -> None:
    script = (
        "mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && cp -r /bin /mnt && sync"
        " && umount /mnt && fsck.ext4 -fn /dev/nvme0n1"
    )
    with (
        Backend(["--nvme", f"file:{tmp_path}/disk.img;create=64M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        result = guest.run(script, timeout=300)
        assert result.status == 0, result.output


def test_fio_verifies_and_discards() -> None:
    with (
        Backend(["--nvme", "mem:32M,serial=BAY7"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["fio", "nvme"], cpus=2) as guest,
    ):
        for depth, size in ((1, "4k"), (32, "4k"), (128, "4k"), (4, "1m")):
            result = guest.run(VERIFY.format(depth, size), timeout=300)
            assert result.status == 0, result.output
            assert "err= 0" in result.output
        discarded = "blkdiscard /dev/nvme0n1 && cmp -n 33554432 /dev/nvme0n1 /dev/zero"
        assert guest.run(discarded).status == 0
        assert "BAY7" in guest.run("nvme list").output


MANAGE = """
set -e
n=/dev/nvme0
nvme create-ns $n --nsze=65536 --ncap=65536 --flbas=0
nvme attach-ns $n --namespace-id=1 --controllers=0
nvme ns-rescan $n
sleep 1
blockdev --getsz ${n}n1
dd if=/dev/zero of=${n}n1 bs=1M count=32 oflag=direct
nvme detach-ns $n --namespace-id=1 --controllers=0
nvme delete-ns $n --namespace-id=1
nvme list-ns $n --all
"""


def test_nvme_cli_makes_namespaces() -> None:
    with (
        Backend(["--controller", "nvme,id=a,spare=64M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["nvme"]) as guest,
    ):
        result = guest.run(MANAGE, timeout=300)
        assert result.status == 0, result.output
        assert "65536" in result.output.split()


def test_nvme_cli_asks_for_everything() -> None:
    with (
        Backend(["--nvme", "mem:32M", "--nvme", "mem:16M,nsid=7"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["nvme"]) as guest,
    ):
        result = guest.run(ADMIN, timeout=300)
        assert result.status == 0, result.output


@pytest.mark.parametrize("firmware", DISKS)
def test_firmware_boots_from_a_namespace(tmp_path: Path, firmware: str) -> None:
    boot_by(firmware, "--nvme", tmp_path)


class FirmwareGuest(LinuxGuest):
    """A guest that OVMF boots from `image`, which is put together when the command line is known:
    the UEFI shell finds a script there that starts the kernel.
    """

    def __init__(self, image: Path, **options: Any) -> None:
        super().__init__(**options)
        self.image = image

    def command(self, append: str = "") -> list[str]:
        words = super().command(append)
        given = {}
        for option in ("-kernel", "-initrd", "-append"):
            at = words.index(option)
            _, given[option] = words[at : at + 2]
            del words[at : at + 2]
        script = self.image.with_name("startup.nsh")
        script.write_text(f"fs0:\r\nlinux.efi initrd=\\initrd.img {given['-append']}\r\n")
        files = {
            "startup.nsh": script,
            "linux.efi": Kernel(self._tree).bzimage,
            "initrd.img": Path(given["-initrd"]),
        }
        subprocess.run(["mformat", "-i", self.image, "-F", "::"], check=True)
        for name, path in files.items():
            subprocess.run(["mcopy", "-i", self.image, path, f"::{name}"], check=True)
        firmware = self.qemu.firmware(FIRMWARE["ovmf"])
        return [*words, "-drive", f"if=pflash,format=raw,readonly=on,file={firmware}"]


def test_linux_boots_from_it_under_ovmf(tmp_path: Path) -> None:
    """OVMF reads the kernel and its initrd from the disk that Linux then mounts."""
    image = tmp_path / "esp.img"
    with (
        Backend(["--nvme", f"file:{image};create=96M"]) as backend,
        FirmwareGuest(image, qemu_args=backend.qemu_arguments(), boot_timeout=150) as guest,
    ):
        guest.run("modprobe nvme; until [ -b /dev/nvme0n1 ]; do sleep .1; done")
        assert guest.run("[ -d /sys/firmware/efi ]").status == 0
        assert guest.run("strings /dev/nvme0n1 | grep -m1 initrd=").status == 0
