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


class Served:
    """An adapter in a process of its own; `arguments` are QEMU's."""

    def __init__(self, server: subprocess.Popen[str], path: Path) -> None:
        self._server = server
        self.expect("ready")
        device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(path)}}
        self.arguments = ["-device", json.dumps(device)]

    def expect(self, word: str) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == f"{word}\n"

    def tell(self, line: str) -> None:
        """Pull, plug or spoil something."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{line}\n")
        self._server.stdin.flush()
        self.expect("done")


@contextmanager
def served(tmp_path: Path, *specs: str) -> Iterator[Served]:
    """An adapter with these drives."""
    path = tmp_path / "ahci.sock"
    command = [sys.executable, "-m", "tests.guest.ahci_server", str(path), *specs]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        try:
            yield Served(server, path)
        finally:
            server.terminate()


def test_linux_keeps_a_file_system_and_queues_32_commands(tmp_path: Path) -> None:
    disk = f"file:{tmp_path}/disk.img;create=32M"
    with (
        served(tmp_path, disk) as adapter,
        LinuxGuest(qemu_args=adapter.arguments, tools=["fio"], memory="768M") as guest,
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
    with served(tmp_path, *specs) as adapter, LinuxGuest(qemu_args=adapter.arguments) as guest:
        assert guest.run("head -c 12 /dev/sr0").output == "compact disc"
        assert guest.run("cat /sys/block/sda/size").output.strip() == "8192"
        result = guest.run(NO_ERRORS)
        assert result.status == 0, result.output


def test_linux_recovers_from_a_bad_sector(tmp_path: Path) -> None:
    """libata reads the NCQ error log, names the sector, and goes on."""
    with (
        served(tmp_path, "mem:4M") as adapter,
        LinuxGuest(qemu_args=adapter.arguments) as guest,
    ):
        adapter.tell("bad 0 100")
        read = "dd if=/dev/sda of=/dev/null bs=4096 count=1 iflag=direct skip="
        assert guest.run(f"{read}12").status != 0
        dmesg = guest.run("dmesg").output
        assert "READ FPDMA QUEUED" in dmesg and "{ UNC }" in dmesg, dmesg
        assert "sector 100" in dmesg or "sector 96" in dmesg, dmesg
        assert guest.run(f"{read}11").status == 0
        write = "dd if=/dev/zero of=/dev/sda bs=4096 count=1 oflag=direct seek=12"
        assert guest.run(f"{write} && {read}12").status == 0
        assert "hard resetting" not in guest.run("dmesg").output


def test_linux_hot_plugs(tmp_path: Path) -> None:
    with (
        served(tmp_path, "mem:4M", "mem:8M") as adapter,
        LinuxGuest(qemu_args=adapter.arguments) as guest,
    ):
        for verb, there in (("pull", 1), ("plug", 0)):
            adapter.tell(f"{verb} 1")
            wait = f"for n in $(seq 100); do [ -e /sys/block/sdb ]; [ $? = {there} ] && exit 0;"
            result = guest.run(f"{wait} sleep .3; done; exit 1", timeout=120)
            assert result.status == 0, guest.run("dmesg | tail -20").output
        assert guest.run("dd if=/dev/sdb of=/dev/null bs=1M iflag=direct").status == 0
