"""Linux' own drivers of every controller of the PC, in a kernel started directly; at night."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.ide import PIIX4, PiixIde
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.spec import open_disk
from drivebay.machines.direct import put_virtio
from drivebay.scsi.dvd import Dvd

from .extfs import ext4, make
from .tiny_linux import Start, TinyLinux

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1200), pytest.mark.usefixtures("kvm")]

MIB = 1 << 20


def put_everything(machine: TinyLinux, on_mmio: Disk) -> None:
    """A disk on each controller, of as many MiB as its place here; a DVD drive; a floppy drive."""
    pc, engine = machine.pc, machine.engine
    ide = PiixIde(pc.memory, (pc.line(14), pc.line(15)), PIIX4)
    ide.attach(0, 0, AtaDisk(RamDisk(1 * MIB), engine))
    ide.attach(1, 0, PacketDevice(Dvd(RamDisk(2 * MIB)), engine))
    pc.bus.plug(1, 1, ide)
    ahci = Ahci(pc.memory, engine)
    ahci.attach(0, AtaDisk(RamDisk(3 * MIB), engine))
    pc.plug(ahci)
    nvme = Nvme(pc.memory, engine)
    nvme.add(1, RamDisk(4 * MIB))
    pc.plug(nvme)
    pc.plug(VirtioPci(BlockDevice(RamDisk(5 * MIB), engine), pc.memory))
    machine.virtio.append(put_virtio(pc, 0, BlockDevice(on_mmio, engine)))


def test_every_controller_with_two_cpus(start: Start, tmp_path: Path) -> None:
    """All drivers find their disks, NVMe with a queue for each CPU; root is on virtio-mmio."""
    image = ext4(tmp_path / "root.img")
    machine = start(cpus=2)
    put_everything(machine, open_disk(f"file:{image.path}"))
    machine.pc.attach_floppy(0, FloppyDrive(RamDisk(1440 << 10)))
    console = machine.boot_to_root("/dev/vda")
    assert "Brought up 1 node, 2 CPUs" in console
    for driver, blocks in (("ata_piix", 2048), ("ahci", 6144), ("virtio-pci", 10240)):
        assert f"] {blocks} 512-byte logical blocks" in console, driver
    assert "nvme nvme0: 2/0/0 default/read/poll queues" in console
    assert "ATAPI: drivebay DVD-ROM" in console
    assert "Floppy drive(s): fd0 is 1.44M" in console
    assert "EXT4-fs (vda): mounted filesystem" in console
    image.check_after_mount()


def test_a_floppy_as_root(start: Start, tmp_path: Path) -> None:
    """Linux' floppy driver reads a file system of 1.44M, and writes that it is mounted."""
    image = make(tmp_path / "a.img", "ext2", 1440)
    machine = start()
    machine.pc.attach_floppy(0, FloppyDrive(open_disk(f"file:{image.path}")))
    console = machine.boot_to_root("/dev/fd0")
    assert "EXT4-fs (fd0): mounted filesystem without journal" in console
    image.check_after_mount()
