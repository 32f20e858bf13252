"""AHCI over vfio-user, with Linux's ahci driver under QEMU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivebay.guests.linux import LinuxGuest

from .conftest import FIO

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

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
"""
NO_ERRORS = "dmesg | grep -E 'ata[0-9].*(error|exception|failed|lost|timeout)' && exit 1 || true"


@contextmanager
def served(tmp_path: Path, *specs: str) -> Iterator[list[str]]:
    """QEMU's arguments for an adapter with these drives."""
    path = tmp_path / "ahci.sock"
    command = [sys.executable, "-m", "tests.guest.ahci_server", str(path), *specs]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stdout.readline() == "ready\n"
            address = {"type": "unix", "path": str(path)}
            device = {"driver": "vfio-user-pci", "socket": address}
            yield ["-device", json.dumps(device)]
        finally:
            server.terminate()


def test_linux_keeps_a_file_system_and_queues_32_commands(tmp_path: Path) -> None:
    disk = f"file:{tmp_path}/disk.img;create=32M"
    with (
        served(tmp_path, disk) as arguments,
        LinuxGuest(qemu_args=arguments, tools=["fio"], memory="768M") as guest,
    ):
        dmesg = guest.run("dmesg | grep -iE 'ahci|ata[0-9]'").output
        assert "NCQ (depth 32)" in dmesg, dmesg
        assert "SATA link up 6.0 Gbps" in dmesg
        assert guest.run("cat /sys/block/sda/device/queue_depth").output.strip() == "32"
        fio = f"{FIO} --name=v --filename=/dev/sda --rw=randwrite --size=16M"
        for script in (FILE_SYSTEM, fio, NO_ERRORS):
            result = guest.run(script, timeout=300)
            assert result.status == 0, result.output


def test_linux_sees_a_cd_beside_a_disk(tmp_path: Path) -> None:
    (tmp_path / "cd.iso").write_bytes(b"compact disc".ljust(1 << 20, b"\0"))
    specs = ("mem:4M", f"file:{tmp_path}/cd.iso")
    with served(tmp_path, *specs) as arguments, LinuxGuest(qemu_args=arguments) as guest:
        assert guest.run("head -c 12 /dev/sr0").output == "compact disc"
        assert guest.run("cat /sys/block/sda/size").output.strip() == "8192"
        result = guest.run(NO_ERRORS)
        assert result.status == 0, result.output
