"""Linux on a drive that is passed through: our AHCI, a simulated SAT device behind it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drivebay.guests.linux import LinuxGuest
from tests.ide.support import noise

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SIZE = 16 << 20
READ_ONLY = """set -e
hdparm -I /dev/sda | grep -q 'a real drive'
hdparm -C /dev/sda | grep -q active
smartctl -H /dev/sda | grep -q PASSED
cat /dev/sda | md5sum
! dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct 2>/dev/null
! hdparm -W0 /dev/sda 2>/dev/null | grep -q 'off'
dd if=/dev/sda bs=4096 count=1 iflag=direct 2>/dev/null | md5sum
"""
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
dmesg | grep -E 'ata[0-9].*(error|exception|failed|lost|timeout)' && exit 1 || true
"""


@contextmanager
def served(tmp_path: Path, *categories: str) -> Iterator[list[str]]:
    """QEMU's arguments for an adapter in a process of its own."""
    path = tmp_path / "ahci.sock"
    image = f"file:{tmp_path}/disk.img"
    command = [sys.executable, "-m", "tests.passthrough.server", str(path), image, *categories]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path)}}
            yield ["-device", json.dumps(device)]
        finally:
            server.terminate()


def test_linux_reads_and_cannot_write(tmp_path: Path) -> None:
    data = noise(SIZE)
    (tmp_path / "disk.img").write_bytes(data)
    tools = ["hdparm", "smartctl"]
    with served(tmp_path) as arguments, LinuxGuest(qemu_args=arguments, tools=tools) as guest:
        result = guest.run(READ_ONLY, timeout=300)
        assert result.status == 0, result.output + guest.run("dmesg | tail -30").output
    assert (tmp_path / "disk.img").read_bytes() == data


def test_linux_keeps_a_file_system(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(SIZE * 2))
    with served(tmp_path, "write") as arguments, LinuxGuest(qemu_args=arguments) as guest:
        result = guest.run(FILE_SYSTEM, timeout=300)
        assert result.status == 0, result.output + guest.run("dmesg | tail -30").output
