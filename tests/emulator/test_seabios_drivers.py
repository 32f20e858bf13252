"""SeaBIOS' drivers of every controller that PCs carry boot from it, and boot sectors work it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.disk.contract import Disk
from drivebay.disk.spec import open_disk
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.server import DeviceServer
from drivebay.scsi.target import Target
from tests.emulator.conftest import Machine
from tests.emulator.test_seabios import cd_image, int13
from tests.emulator.x86 import Code, begin, end, packet, say

MIB = 1 << 20
BUFFER = 0x9000
SEGMENT = 0x2000
"""Of a large buffer, at 128 KiB."""
LARGE = 64
"""Sectors of a large transfer."""
FIRST, SECOND, SOURCE, TARGET, WRITTEN = 1, 5, 64, 256, 9  # sectors
PATTERN = bytes(range(256)) * (2 * LARGE)


def on_ide(machine: Machine, disk: Disk) -> None:
    machine.ide.attach(0, 0, AtaDisk(disk, machine.engine))


def on_ahci(machine: Machine, disk: Disk) -> None:
    ahci = Ahci(machine.pc.memory, machine.engine)
    ahci.attach(1, AtaDisk(disk, machine.engine))
    machine.pc.plug(ahci)


def on_nvme(machine: Machine, disk: Disk) -> None:
    nvme = Nvme(machine.pc.memory, machine.engine)
    nvme.add(1, disk)
    machine.pc.plug(nvme)


def on_virtio_blk(machine: Machine, disk: Disk) -> None:
    machine.pc.plug(VirtioPci(BlockDevice(disk, machine.engine), machine.pc.memory))


def on_virtio_blk_by_port(machine: Machine, disk: Disk) -> None:
    device = BlockDevice(disk, machine.engine)
    machine.pc.plug(VirtioPci(device, machine.pc.memory, notify_port=True))


def scsi(machine: Machine, unit: DeviceServer) -> None:
    target = Target(machine.engine)
    target.add(0, unit)
    machine.pc.plug(VirtioPci(ScsiDevice(target, machine.engine), machine.pc.memory))


def on_virtio_scsi(machine: Machine, disk: Disk) -> None:
    scsi(machine, ScsiDisk(disk))


Attach = Callable[[Machine, Disk], None]
DISKS: dict[str, tuple[Attach, bytes]] = {
    "ide": (on_ide, b"ata0-0: drivebay ATA disk"),
    "ahci": (on_ahci, b'registering: "AHCI/1: drivebay ATA disk'),
    "nvme": (on_nvme, b"id=4e58:0001"),
    "virtio-blk": (on_virtio_blk, b"using modern (1.0) virtio mode"),
    "virtio-blk by port": (on_virtio_blk_by_port, b"type 2 bar 2 at 0x0000c"),
    "virtio-scsi": (on_virtio_scsi, b"virtio-scsi vendor='drivebay'"),
}
"""What puts a disk on the controller, and what SeaBIOS says of it."""


@pytest.fixture(params=DISKS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def image(path: Path, boot: bytes) -> Path:
    """A disk with banners in two sectors, and a pattern."""
    data = bytearray(8 * MIB)
    for sector, content in (
        (0, boot),
        (FIRST, b"first banner\n\0"),
        (SECOND, b"second banner\n\0"),
        (SOURCE, PATTERN),
    ):
        data[512 * sector : 512 * sector + len(content)] = content
    path.write_bytes(data)
    return path


def word(number: int) -> str:
    return number.to_bytes(2, "little").hex()


def chs(code: Code, ax: int, sector: int) -> None:
    """INT 13h by cylinder 0, head 0 and sector, of the boot drive with BUFFER."""
    code(f"BB {word(BUFFER)} B8 {word(ax)} B9 {sector + 1:02x}00 B600 8A16 {{drive}} CD13")
    code("0F82 (failed)")


def show(code: Code) -> None:
    """Print what is in BUFFER."""
    code(f"BE {word(BUFFER)} E8 (print)")


def worker() -> Code:
    """Reads by CHS and prints, reads by LBA and prints, writes and reads back, copies 32 KiB."""
    code = begin()
    chs(code, 0x0201, FIRST)
    show(code)
    int13(code, "0042", "second")
    show(code)
    int13(code, "0043", "write")
    code(f"C606 {word(BUFFER)} 00")  # mov byte [BUFFER], 0
    chs(code, 0x0201, WRITTEN)
    show(code)
    int13(code, "0042", "large")
    code("C706 {to} " + word(TARGET))  # mov word [to], TARGET
    int13(code, "0043", "large")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0")
    code.data("second", packet(1, BUFFER, SECOND)).data("write", packet(1, BUFFER, WRITTEN))
    large = packet(LARGE, SEGMENT << 16, SOURCE)
    code.data("large", large[:8])
    return code.data("to", large[8:])


def test_a_disk_boots_reads_and_writes(machine: Machine, tmp_path: Path, kind: str) -> None:
    path = image(tmp_path / "disk.img", worker().sector())
    attach, said = DISKS[kind]
    disk = open_disk(f"file:{path}")
    attach(machine, disk)
    assert machine.boot() == "first banner\n" + 2 * "second banner\n" + "OK\n"
    assert said in machine.debug
    disk.close()
    written = path.read_bytes()
    assert written[512 * WRITTEN :].startswith(b"second banner\n\0")
    assert written[512 * TARGET :][: len(PATTERN)] == PATTERN


def test_a_read_past_the_end_is_an_error_of_int_13h(
    machine: Machine, tmp_path: Path, kind: str
) -> None:
    code = begin()
    int13(code, "0042", "read")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("read", packet(1, BUFFER, 8 * MIB // 512))
    disk = open_disk(f"file:{image(tmp_path / 'disk.img', code.sector())}")
    DISKS[kind][0](machine, disk)
    assert machine.boot() == "FAILED"
    disk.close()


def dvd_on_ahci(machine: Machine, disk: Disk) -> None:
    ahci = Ahci(machine.pc.memory, machine.engine)
    ahci.attach(0, PacketDevice(Dvd(disk), machine.engine))
    machine.pc.plug(ahci)


def dvd_on_virtio_scsi(machine: Machine, disk: Disk) -> None:
    scsi(machine, Dvd(disk))


@pytest.mark.parametrize("attach", [dvd_on_ahci, dvd_on_virtio_scsi])
def test_a_dvd_boots(machine: Machine, tmp_path: Path, attach: Attach) -> None:
    """El Torito; the boot image reads the volume descriptor at block 16 and prints its name. That
    of an IDE drive is in `test_seabios`.
    """
    code = begin()
    say(code, "hello")
    int13(code, "0042", "read")
    code(f"C606 {word(BUFFER + 6)} 00")  # a zero behind "CD001"
    code(f"BE {word(BUFFER + 1)} E8 (print)")
    end(code)
    code.data("hello", b"hello from the DVD\n\0").data("read", packet(1, BUFFER, 16))
    path = tmp_path / "cd.iso"
    path.write_bytes(cd_image(code.assemble().ljust(2048, b"\0")))
    disk = open_disk(f"file:{path}", read_only=True)
    attach(machine, disk)
    assert machine.boot() == "hello from the DVD\nCD001"
    disk.close()


def test_all_of_them_in_one_machine(machine: Machine, tmp_path: Path) -> None:
    """A boot sector counts the disks and writes to each; what it says comes from a floppy."""
    code = begin()
    code("B408 B280 CD13 0F82 (failed) 80FA06 0F85 (failed)")  # AH=08h: dl is 6, or else
    code("C606 {drive} 00")
    chs(code, 0x0201, FIRST)
    show(code)
    code("C606 {drive} 80")
    code.label("next-disk")
    int13(code, "0043", "write")
    code("FE06 {drive} 803E {drive} 86 75 <next-disk>")  # inc; cmp byte [drive], 86h; jne
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("write", packet(1, BUFFER, WRITTEN))
    paths = [image(tmp_path / f"{number}.img", code.sector()) for number in range(len(DISKS))]
    disks = [open_disk(f"file:{path}") for path in paths]
    for disk, (attach, _) in zip(disks, DISKS.values(), strict=True):
        attach(machine, disk)
    floppy = tmp_path / "a.img"
    floppy.write_bytes(bytes(512) + b"from the floppy\n\0".ljust(1440 * 1024 - 512, b"\0"))
    disks.append(open_disk(f"file:{floppy}"))
    machine.pc.attach_floppy(0, FloppyDrive(disks[-1]))
    assert machine.boot() == "from the floppy\nOK\n"
    for disk in disks:
        disk.close()
    for path in paths:
        assert path.read_bytes()[512 * WRITTEN :].startswith(b"from the floppy\n\0")
