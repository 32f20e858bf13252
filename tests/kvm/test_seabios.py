"""What SeaBIOS and boot sectors do on unicorn, they do on KVM."""

from __future__ import annotations

from pathlib import Path

from drivebay.controllers.floppy import MEDIA, FloppyDrive
from drivebay.disk.spec import open_disk
from tests.emulator.conftest import Machine
from tests.emulator.test_floppy import PATTERN, image, writer
from tests.emulator.test_seabios import test_a_cd_boots, test_a_disk_boots_reads_and_writes

__all__ = ["test_a_cd_boots", "test_a_disk_boots_reads_and_writes"]


def test_a_floppy_boots_reads_and_writes(machine: Machine, tmp_path: Path) -> None:
    medium = next(medium for medium in MEDIA if medium.name == "1.44M")
    path = image(tmp_path / "a.img", writer(medium).sector(), medium)
    disk = open_disk(f"file:{path}")
    machine.pc.attach_floppy(0, FloppyDrive(disk))
    assert machine.boot() == "hello from the floppy\nOK\n"
    at = (39 * 2 * medium.sectors + 2) * 512
    assert path.read_bytes()[at : at + 512] == PATTERN
    disk.close()
