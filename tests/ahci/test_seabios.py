"""SeaBIOS' AHCI driver boots a disk and a CD from the adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.controllers.ahci import Ahci
from drivebay.disk.spec import open_disk
from drivebay.scsi.dvd import Dvd
from tests.emulator.conftest import Machine, commands, machine, seabios
from tests.emulator.test_seabios import BUFFER, PATTERN, cd_image, disk_file, int13
from tests.emulator.x86 import begin, end, packet, say

__all__ = ["commands", "machine", "seabios"]  # fixtures

Commands = Callable[[], list[str]]


@pytest.fixture
def ahci(machine: Machine) -> Ahci:
    ahci = Ahci(machine.pc.memory, machine.engine)
    machine.pc.bus.plug(3, 0, ahci)
    return ahci


def test_a_disk_boots_reads_and_writes(
    machine: Machine, ahci: Ahci, tmp_path: Path, commands: Commands
) -> None:
    code = begin()
    say(code, "hello")
    int13(code, "0042", "read")
    int13(code, "0043", "write")
    say(code, "ok")
    end(code)
    code.data("hello", b"hello from the disk\n\0").data("ok", b"OK\n\0")
    code.data("read", packet(1, BUFFER, 1)).data("write", packet(1, BUFFER, 9))
    image = disk_file(tmp_path / "disk.img", code.sector())
    ahci.attach(0, AtaDisk(open_disk(f"file:{image}"), machine.engine, serial="1"))
    assert machine.boot() == "hello from the disk\nOK\n"
    assert image.read_bytes()[9 * 512 : 10 * 512] == PATTERN
    assert b"AHCI/0" in machine.debug
    log = commands()
    assert [line for line in log if line.startswith("READ DMA 0x1+0x1 -> ")]
    assert [line for line in log if line.startswith("WRITE DMA 0x9+0x1 -> ")]


def test_a_read_past_the_end_is_an_error_of_int_13h(
    machine: Machine, ahci: Ahci, tmp_path: Path
) -> None:
    code = begin()
    int13(code, "0042", "read")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("read", packet(1, BUFFER, (16 << 20) // 512))
    image = disk_file(tmp_path / "disk.img", code.sector())
    ahci.attach(0, AtaDisk(open_disk(f"file:{image}"), machine.engine))
    assert machine.boot() == "FAILED"


def test_a_cd_boots(machine: Machine, ahci: Ahci, tmp_path: Path, commands: Commands) -> None:
    """El Torito, at port 2."""
    code = begin()
    say(code, "hello")
    int13(code, "0042", "read")
    code(f"C606 {(BUFFER + 6).to_bytes(2, 'little').hex()} 00")  # a zero behind "CD001"
    code(f"BE {(BUFFER + 1).to_bytes(2, 'little').hex()} E8 (print)")
    end(code)
    code.data("hello", b"hello from the CD\n\0").data("read", packet(1, BUFFER, 16))
    path = tmp_path / "cd.iso"
    path.write_bytes(cd_image(code.assemble().ljust(2048, b"\0")))
    dvd = Dvd(open_disk(f"file:{path}", read_only=True))
    ahci.attach(2, PacketDevice(dvd, machine.engine))
    assert machine.boot() == "hello from the CD\nCD001"
    assert b"AHCI/2" in machine.debug
    assert any("READ(10)" in line or "READ 10" in line for line in commands())
