"""Programs on our StorVSP: file systems made, written and checked; at night, on a KVM that can.

Where KVM interprets kernel code no program runs. QEMU runs the same kernel and the same script
everywhere, so that only the disks are new where KVM can.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.spec import open_disk
from drivebay.guests import debian
from drivebay.guests.cpio import Archive
from drivebay.guests.initramfs import initramfs
from drivebay.guests.kernel import Kernel
from drivebay.guests.kvm import kvm_works
from drivebay.guests.qemu import find_qemu
from drivebay.scsi.disk import ScsiDisk

from .extfs import run
from .tiny_linux import Start

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200)]

MIB: Final = 1 << 20
FIRST_IS_DONE: Final = "programs: the first is done"
ALL_IS_WELL: Final = "programs: all is well"
SCRIPT: Final = f"""#!/bin/sh
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
set -e
try() {{
	while [ ! -b "$1" ]; do sleep 0.1; done
	mkfs.ext4 -q "$1"
	mount "$1" /mnt
	fio --name=verify --filename=/mnt/file --size=16M --rw=randwrite --bs=4k --ioengine=libaio \\
		--iodepth=16 --direct=1 --verify=crc32c --do_verify=1 --minimal >/dev/null
	umount /mnt
	e2fsck -fn "$1" >/dev/null
}}
eval "$(tr ' ' '\\n' </proc/cmdline | grep ^disks=)"
first=${{disks%,*}} second=${{disks#*,}}
try "/dev/$first"
echo "{FIRST_IS_DONE}"
try "/dev/$second"
echo "{ALL_IS_WELL}"
poweroff -f
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of our guests, with the script as the first program."""
    tree = debian.tree(debian.GUEST)
    archive = Archive()
    archive.file("init", SCRIPT.encode(), 0o755)
    path = tmp_path_factory.mktemp("programs") / "initramfs"
    path.write_bytes(initramfs(tree, Kernel(tree).modules, ["fio"]).read_bytes() + archive.build())
    return path


def disk_file(path: Path) -> Path:
    with path.open("wb") as file:
        file.truncate(64 * MIB)
    return path


def test_the_script_in_qemu(kernel: Path, programs: Path, tmp_path: Path) -> None:
    qemu = find_qemu()
    command = [*qemu.command(), "-nodefaults", "-display", "none", "-no-reboot", "-m", "512M"]
    command += ["-serial", "stdio", "-kernel", str(kernel), "-initrd", str(programs)]
    command += ["-append", "console=ttyS0 panic=-1 quiet disks=vda,vdb"]
    images = [disk_file(tmp_path / name) for name in ("a.img", "b.img")]
    for image in images:
        command += ["-drive", f"file={image},format=raw,if=virtio"]
    environment = {**os.environ, **qemu.environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ALL_IS_WELL in done.stdout, done.stdout + done.stderr
    for image in images:
        run("e2fsck", "-fn", str(image))


def test_programs_on_storvsc(start: Start, programs: Path, tmp_path: Path) -> None:
    """On a disk that was there, and on one that comes while they run."""
    if not kvm_works():
        pytest.skip("NOT TESTED: this KVM interprets kernel code, and no program runs on it")
    image = disk_file(tmp_path / "disk.img")
    machine = start(cpus=2, hyperv=True, ram_size=512 * MIB)
    device = machine.attach_scsi(open_disk(f"file:{image}"), sub_channels=1)
    machine.initrd = programs.read_bytes()
    machine.boot("disks=sda,sdb", FIRST_IS_DONE)
    device.target.add(1, ScsiDisk(RamDisk(64 * MIB)))
    machine.go_on(ALL_IS_WELL)
    run("e2fsck", "-fn", str(image))
