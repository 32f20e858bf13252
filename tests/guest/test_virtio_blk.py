"""virtio-blk over vhost-user with Linux's own driver, under QEMU and User-Mode Linux."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.guests.guest import Guest

from .conftest import FIO, qemu_guest, uml_guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MIB = 1 << 20


def ok(guest: Guest, script: str, timeout: float = 120.0) -> str:
    """Run `script` in the guest; its output, if it ended well."""
    result = guest.run(script, timeout=timeout)
    assert result.status == 0, result.output
    return result.output.strip()


FILE_SYSTEM = """set -e
mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt
mount /dev/vda /mnt
dd if=/dev/urandom of=/mnt/a bs=1M count=8 2>/dev/null
cp /mnt/a /mnt/b
sync
echo 3 >/proc/sys/vm/drop_caches
cmp /mnt/a /mnt/b
fstrim /mnt
umount /mnt
fsck.ext4 -f -n /dev/vda
"""


class TestQemu:
    """One guest with a writable file, a read-only file and a memory disk with 4096-byte sectors."""

    @pytest.fixture(scope="class")
    @staticmethod
    def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backend, Guest, Path]]:
        folder = tmp_path_factory.mktemp("disks")
        (folder / "ro.img").write_bytes(b"read only".ljust(MIB))
        disks = [
            f"file:{folder}/rw.img;create=128M,serial=SN-42,queues=2",
            f"file:{folder}/ro.img,ro",
            "mem:64M;sector=4096",
        ]
        with qemu_guest(disks, tools=["fio"], memory="768M") as (backend, guest):
            yield backend, guest, folder

    @pytest.fixture
    @staticmethod
    def guest(machine: tuple[Backend, Guest, Path]) -> Guest:
        return machine[1]

    def test_mkfs_write_fsck(self, guest: Guest) -> None:
        ok(guest, FILE_SYSTEM)

    def test_serial_and_queues(self, guest: Guest) -> None:
        assert ok(guest, "cat /sys/block/vda/serial") == "SN-42"
        assert ok(guest, "ls /sys/block/vda/mq | wc -l") in ("1", "2")  # as many as it has CPUs

    def test_4096_byte_sectors(self, guest: Guest) -> None:
        assert ok(guest, "cat /sys/block/vdc/queue/logical_block_size") == "4096"
        ok(guest, FILE_SYSTEM.replace("vda", "vdc"))

    def test_discard_frees_and_zeroes(self, machine: tuple[Backend, Guest, Path]) -> None:
        _, guest, folder = machine
        ok(guest, "dd if=/dev/urandom of=/dev/vda bs=1M count=32 oflag=direct && sync")
        before = (folder / "rw.img").stat().st_blocks
        ok(guest, "blkdiscard -o 0 -l 16M /dev/vda")
        assert before - (folder / "rw.img").stat().st_blocks >= 16 * MIB // 512
        assert (folder / "rw.img").read_bytes()[: 16 * MIB] == bytes(16 * MIB)

    def test_write_zeroes(self, machine: tuple[Backend, Guest, Path]) -> None:
        _, guest, folder = machine
        ok(guest, "dd if=/dev/urandom of=/dev/vda bs=1M count=8 oflag=direct && sync")
        ok(guest, "blkdiscard -z -o 1M -l 4M /dev/vda")
        content = (folder / "rw.img").read_bytes()
        assert content[MIB : 5 * MIB] == bytes(4 * MIB)
        assert content[:MIB] != bytes(MIB)
        assert content[5 * MIB : 6 * MIB] != bytes(MIB)

    def test_a_read_only_disk_refuses_politely(self, guest: Guest) -> None:
        assert ok(guest, "cat /sys/block/vdb/ro") == "1"
        assert ok(guest, "head -c 9 /dev/vdb") == "read only"
        assert guest.run("dd if=/dev/zero of=/dev/vdb bs=512 count=1 oflag=direct").status != 0
        assert ok(guest, "head -c 9 /dev/vdb") == "read only"

    def test_fio_verify_at_queue_depth_32(self, guest: Guest) -> None:
        ok(guest, f"{FIO} --name=v --filename=/dev/vda --rw=randwrite --size=48M")

    def test_live_resize_is_seen(self, machine: tuple[Backend, Guest, Path]) -> None:
        backend, guest, folder = machine
        os.truncate(folder / "rw.img", 192 * MIB)
        backend.refresh()
        grown = "[ $(cat /sys/block/vda/size) = 393216 ]"
        ok(guest, f"for n in $(seq 50); do {grown} && exit 0; sleep .1; done; exit 1")
        ok(guest, "dd if=/dev/zero of=/dev/vda bs=1M seek=191 count=1 oflag=direct")


def test_packed_ring(tmp_path: Path) -> None:
    with qemu_guest([f"file:{tmp_path}/packed.img;create=64M,packed"]) as (_, guest):
        features = ok(guest, "cat /sys/bus/virtio/devices/*/features")
        assert features[34] == "1"
        ok(guest, FILE_SYSTEM)


class TestUml:
    """User-Mode Linux: a vhost-user client of its own, at native speed."""

    def test_mkfs_write_fsck_and_fio_verify(self, tmp_path: Path) -> None:
        disks = [f"file:{tmp_path}/uml.img;create=128M"]
        with uml_guest(disks, tools=["fio"]) as (_, guest):
            ok(guest, FILE_SYSTEM)
            ok(guest, f"{FIO} --name=v --filename=/dev/vda --rw=randwrite --size=100M")
            ok(
                guest,
                f"{FIO} --name=w --filename=/dev/vda --rw=randrw --size=64M --bsrange=512-256k",
            )

    def test_memdiff_leaves_its_base_alone(self, tmp_path: Path) -> None:
        base = tmp_path / "base.img"
        base.write_bytes(os.urandom(32 * MIB))
        before = base.read_bytes()
        with uml_guest([f"memdiff:file:{base}"]) as (_, guest):
            ok(guest, FILE_SYSTEM)
        assert base.read_bytes() == before


def test_a_server_killed_20_times_under_load_loses_nothing(tmp_path: Path) -> None:
    """kill -9 of the data plane under fio's verify; QEMU reconnects, in-flight requests go on."""
    rounds = 20
    with qemu_guest([f"file:{tmp_path}/killed.img;create=64M"], tools=["fio"]) as (backend, guest):
        killed = 0
        done = threading.Event()

        def kill() -> None:
            nonlocal killed
            while not done.wait(0.7) and killed < rounds:
                os.kill(backend.pid, signal.SIGKILL)
                backend.read_ready()
                killed += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            start = time.monotonic()
            output = ok(
                guest,
                f"{FIO} --name=k --filename=/dev/vda --rw=randrw --size=48M --time_based"
                " --runtime=20 --verify_backlog=256",
                timeout=240,
            )
        finally:
            done.set()
            killer.join()
        assert killed == rounds, f"{killed} kills in {time.monotonic() - start:.0f} s"
        error_count = int(output.splitlines()[-1].split(";")[4])
        assert error_count == 0
        ok(guest, "dd if=/dev/vda of=/dev/null bs=1M iflag=direct")
