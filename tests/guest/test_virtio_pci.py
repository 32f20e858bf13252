"""virtio as PCI functions over vfio-user, with Linux's drivers under QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.linux import LinuxGuest

from .test_boot import boot_by

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

FILE_SYSTEM = (
    "dd if=/dev/urandom of=/tmp/data bs=1M count=4 && mkfs.ext4 -q {0} && mount {0} /mnt"
    " && cp /tmp/data /mnt && umount /mnt && fsck.ext4 -fn {0}"
    " && mount -o ro {0} /mnt && cmp /tmp/data /mnt/data && umount /mnt"
)
VERIFY = (
    "fio --name=v --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth={} --rw=randwrite"
    " --bs={} --size=4M --verify=crc32c --do_verify=1 --verify_fatal=1"
)


def test_linux_keeps_file_systems_and_fio_verifies(tmp_path: Path) -> None:
    """A block device with two packed queues, and a SCSI host, each by MSI-X."""
    options = ["--virtio-blk-pci", f"file:{tmp_path}/disk.img;create=64M,queues=2,packed,serial=B9"]
    options += ["--scsi-pci", "mem:64M"]
    with (
        Backend(options) as backend,
        LinuxGuest(qemu_args=backend.qemu_arguments(), tools=["fio"], cpus=2) as guest,
    ):
        for device in ("/dev/vda", "/dev/sda"):
            result = guest.run(FILE_SYSTEM.format(device), timeout=300)
            assert result.status == 0, result.output
        for depth, size in ((32, "4k"), (4, "512k")):
            result = guest.run(VERIFY.format(depth, size), timeout=300)
            assert result.status == 0, result.output
            assert "err= 0" in result.output
        assert guest.run("cat /sys/block/vda/serial").output.strip() == "B9"
        interrupts = guest.run("cat /proc/interrupts").output
        assert all(name in interrupts for name in ("virtio0-req.0", "virtio0-req.1"))


def test_firmware_boots_from_it(tmp_path: Path) -> None:
    boot_by("seabios", "--virtio-blk-pci", tmp_path)
