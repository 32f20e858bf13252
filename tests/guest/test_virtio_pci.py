"""virtio as PCI functions over vfio-user, with Linux's drivers under QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

from .test_boot import boot_by

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FILE_SYSTEM = (
    "mkfs.ext4 -q {0} && mount {0} /mnt && cp -r /bin /mnt && sync && umount /mnt"
    " && fsck.ext4 -fn {0} && mount -o ro {0} /mnt && diff -r /bin /mnt/bin"
)
VERIFY = (
    "fio --name=v --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth={} --rw=randwrite"
    " --bs={} --size=16M --verify=crc32c --do_verify=1 --verify_fatal=1"
)


@pytest.mark.parametrize(
    ("option", "device"), [("--virtio-blk-pci", "/dev/vda"), ("--scsi-pci", "/dev/sda")]
)
def test_linux_keeps_a_file_system(tmp_path: Path, option: str, device: str) -> None:
    with (
        Backend([option, f"file:{tmp_path}/disk.img;create=64M"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments()) as guest,
    ):
        result = guest.run(FILE_SYSTEM.format(device), timeout=300)
        assert result.status == 0, result.output
        assert "virtio" in guest.run("grep -H . /proc/interrupts").output


def test_fio_verifies_on_two_queues() -> None:
    with (
        Backend(["--virtio-blk-pci", "mem:32M,queues=2,packed,serial=BAY9"]) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["fio"], cpus=2) as guest,
    ):
        for depth, size in ((1, "4k"), (32, "4k"), (4, "1m")):
            result = guest.run(VERIFY.format(depth, size), timeout=300)
            assert result.status == 0, result.output
            assert "err= 0" in result.output
        assert guest.run("cat /sys/block/vda/serial").output.strip() == "BAY9"


def test_firmware_boots_from_it(tmp_path: Path) -> None:
    boot_by("seabios", "--virtio-blk-pci", tmp_path)
