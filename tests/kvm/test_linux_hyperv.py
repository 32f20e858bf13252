"""Linux' own hv_vmbus and hv_storvsc on our Hyper-V and StorVSP; at night.

Where KVM interprets kernel code no program of a guest can run (docs/hyperv.md): there the tests end
inside the kernel, which has mounted its root; what it has done to it is looked at from outside.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.controllers.storvsp.ide import build_ide
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.spec import open_disk
from drivebay.machines.firmware import tell_of_hyperv
from drivebay.platform.vmbus_messages import IRON
from drivebay.scsi.disk import ScsiDisk

from .bios_linux import BANNER, PARTITION, SECTOR, bootable
from .extfs import REPLAYED, dirty_ext4, ext4
from .tiny_linux import MOUNTED, WORDS, Start, TinyLinux

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200), pytest.mark.usefixtures("kvm")]


def test_ext4_on_storvsc_with_two_cpus(start: Start, tmp_path: Path) -> None:
    """A root file system whose journal is replayed, over a channel and a sub-channel."""
    image = dirty_ext4(tmp_path / "root.img")
    machine = start(cpus=2, hyperv=True)
    device = machine.attach_scsi(open_disk(f"file:{image.path}"), sub_channels=8)
    console = machine.boot_to_root("/dev/sda")
    assert "Hypervisor detected: Microsoft Hyper-V" in console
    assert "hv_vmbus: Vmbus version:5.3" in console
    assert "Brought up 1 node, 2 CPUs" in console
    assert "[sda] Attached SCSI disk" in console
    assert "EXT4-fs (sda): recovery complete" in console
    assert "EXT4-fs (sda): mounted filesystem" in console
    assert "storvsc_on_io_completion" not in console
    assert machine.hyperv is not None
    assert machine.hyperv.bus.version == IRON
    assert [channel.offer.sub_channel for channel in device.channels] == [0, 1]
    channels = machine.hyperv.bus.save()["channels"]
    assert sorted(each["target_vp"] for each in channels) == [0, 1], "each CPU has its own"
    image.check_after_mount()
    assert image.page() == REPLAYED


def test_a_unit_that_comes_while_linux_runs(start: Start, tmp_path: Path) -> None:
    """Linux waits for its root; it is added to a controller whose other disk has partitions."""
    image = ext4(tmp_path / "root.img")
    machine = start(hyperv=True)
    device = machine.attach_scsi(RamDisk(8 << 20))
    machine.boot("root=/dev/sdb rw rootwait", "Waiting for root device /dev/sdb")
    assert "[sda] 16384 512-byte logical blocks" in machine.console
    device.target.add(1, ScsiDisk(open_disk(f"file:{image.path}")))
    console = machine.go_on_to_root()
    assert "[sdb] Attached SCSI disk" in console
    assert "EXT4-fs (sdb): mounted filesystem" in console
    image.check_after_mount()


def put_ide(machine: TinyLinux, path: Path) -> None:
    """A disk on the primary channel, with its accelerator."""
    assert machine.hyperv is not None
    pc, engine = machine.pc, machine.engine
    disk = open_disk(f"file:{path}")
    ide = PiixIde(pc.memory, (pc.line(14), pc.line(15)), PIIX4)
    ide.attach(0, 0, AtaDisk(disk, engine, serial="1"))
    pc.bus.plug(1, 1, ide)
    build_ide(disk, pc.memory, engine, 0, 0).attach(machine.hyperv.bus)


def is_taken_over(console: str) -> None:
    """ata_piix leaves the disk to hv_storvsc, which finds the same one."""
    assert "Hyper-V Virtual Machine detected, ATA device ignore set" in console
    assert "storvsc_host_t" in console
    assert "sdb" not in console


def test_the_accelerator_of_an_ide_disk(start: Start, tmp_path: Path) -> None:
    image = ext4(tmp_path / "root.img")
    machine = start(hyperv=True)
    put_ide(machine, image.path)
    console = machine.boot_to_root("/dev/sda")
    is_taken_over(console)
    assert "EXT4-fs (sda): mounted filesystem" in console
    image.check_after_mount()


def test_the_accelerator_of_the_disk_that_seabios_has_booted_from(
    start: Start, seabios: bytes, tmp_path: Path
) -> None:
    """By INT 13h and its IDE driver come the boot sector and the kernel; then hv_storvsc has it."""
    image, path = ext4(tmp_path / "root.img"), tmp_path / "disk.img"
    machine = start(hyperv=True, firmware=seabios)
    append = f"{WORDS} root=/dev/sda1 rw rootwait"
    path.write_bytes(bootable(machine.kernel, image.path, append, machine.pc.ram_size))
    put_ide(machine, path)
    tell_of_hyperv(machine.pc, machine.cpus)
    console = machine.go_on(MOUNTED)
    assert console.startswith(BANNER)
    is_taken_over(console)
    assert "EXT4-fs (sda1): mounted filesystem" in console
    image.path.write_bytes(path.read_bytes()[PARTITION * SECTOR :])
    image.check_after_mount()
