"""SeaBIOS' drivers boot from the drives, and boot sectors work them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pycdlib

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.disk.spec import open_disk
from drivebay.hosts.emulator.unicorn_cpu import End
from drivebay.scsi.dvd import Dvd
from tests.emulator.conftest import Machine
from tests.emulator.x86 import Code, begin, end, packet, say

Commands = Callable[[], list[str]]

PATTERN = bytes(range(256)) * 2
MIB = 1 << 20
BUFFER = 0x9000
FAR_LBA = (1 << 28) + 8  # past what 28 bits address: READ SECTORS EXT


def disk_file(path: Path, boot: bytes, size: int = 16 * MIB) -> Path:
    """An image with a boot sector and a pattern in sector 1."""
    with open(path, "wb") as file:
        file.write(boot + PATTERN)
        file.truncate(size)
    return path


def attach_disk(machine: Machine, path: Path, unit: int = 0) -> None:
    drive = AtaDisk(open_disk(f"file:{path}"), machine.engine, serial="1")
    machine.ide.attach(0, unit, drive)


def int13(code: Code, function: str, packet_label: str) -> None:
    """INT 13h with a disk address packet; DL is the boot drive."""
    code(f"BE {{{packet_label}}} B8 {function} 8A16 {{drive}} CD13 0F82 (failed)")


def test_post_ends_without_drives(machine: Machine) -> None:
    assert machine.cpu.run(60, lambda: b"No bootable device" in machine.debug) is End.STOPPED
    assert b"SeaBIOS (version" in machine.debug
    assert b"Running on QEMU (i440fx)" in machine.debug
    assert b"ATA controller 1 at 1f0/3f4/" in machine.debug


def test_post_begins_again_after_a_reset(machine: Machine) -> None:
    """A minute after it has found nothing, which is soon: time is virtual."""
    twice = machine.cpu.run(60, lambda: machine.debug.count(b"No bootable device") == 2)
    assert twice is End.STOPPED
    assert machine.debug.count(b"SeaBIOS (version") >= 2
    assert b"hard reboot" in machine.debug


def test_a_disk_boots_reads_and_writes(
    machine: Machine, tmp_path: Path, commands: Commands
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
    attach_disk(machine, image)
    assert machine.boot() == "hello from the disk\nOK\n"
    assert image.read_bytes()[9 * 512 : 10 * 512] == PATTERN
    log = commands()
    assert [line for line in log if line.startswith("READ SECTORS 0x1+0x1 -> ")]
    assert [line for line in log if line.startswith("WRITE SECTORS 0x9+0x1 -> ")]


def test_sectors_that_28_bits_do_not_reach(
    machine: Machine, tmp_path: Path, commands: Commands
) -> None:
    code = begin()
    int13(code, "0042", "read")
    int13(code, "0043", "write")
    int13(code, "0042", "back")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("read", packet(1, BUFFER, 1))
    code.data("write", packet(1, BUFFER, FAR_LBA)).data("back", packet(1, BUFFER, FAR_LBA))
    image = disk_file(tmp_path / "disk.img", code.sector(), (FAR_LBA + 8) * 512)
    attach_disk(machine, image)
    assert machine.boot() == "OK\n"
    with open(image, "rb") as file:
        file.seek(FAR_LBA * 512)
        assert file.read(512) == PATTERN
    assert any(line.startswith("WRITE SECTORS EXT") for line in commands())


def test_a_read_past_the_end_is_an_error_of_int_13h(machine: Machine, tmp_path: Path) -> None:
    code = begin()
    int13(code, "0042", "read")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("read", packet(1, BUFFER, 16 * MIB // 512))
    attach_disk(machine, disk_file(tmp_path / "disk.img", code.sector()))
    assert machine.boot() == "FAILED"


def test_the_second_disk_and_the_slave(
    machine: Machine, tmp_path: Path, commands: Commands
) -> None:
    """A sector is copied from drive 80h to drive 81h, which is the slave of the same channel."""
    code = begin()
    int13(code, "0042", "read")
    code("FE06 {drive}")  # inc byte [drive]
    int13(code, "0043", "write")
    say(code, "ok")
    end(code)
    code.data("ok", b"OK\n\0").data("read", packet(1, BUFFER, 1))
    code.data("write", packet(1, BUFFER, 5))
    attach_disk(machine, disk_file(tmp_path / "first.img", code.sector()))
    second = disk_file(tmp_path / "second.img", bytes(512))
    attach_disk(machine, second, unit=1)
    assert machine.boot() == "OK\n"
    assert second.read_bytes()[5 * 512 : 6 * 512] == PATTERN


def test_code_read_over_code_that_has_run(machine: Machine, tmp_path: Path) -> None:
    code = begin()
    for each in ("first", "second"):
        int13(code, "0042", each)
        code("9A 0090 0000")  # call 0000:9000
    end(code)
    code.data("first", packet(1, BUFFER, 1)).data("second", packet(1, BUFFER, 2))
    image = disk_file(tmp_path / "disk.img", code.sector())
    with open(image, "r+b") as file:
        for sector, letter in ((1, "A"), (2, "B")):
            file.seek(512 * sector)
            file.write(bytes.fromhex(f"BAF803 B0{ord(letter):02X} EE CB"))  # far return
    attach_disk(machine, image)
    assert machine.boot() == "AB"


def dma(code: Code, command: str, direction: str, lba: int, sectors: int = 1) -> None:
    """Sectors by the bus master, its end told by interrupt 14. BX is where the bus master is.

    The drive's ports are ATA/ATAPI-6's, the bus master's those of SFF-8038i.
    """

    def out(port: int, value: int) -> None:
        code(f"BA {port.to_bytes(2, 'little').hex()} B0 {value:02X} EE")

    code("C606 {done} 00")  # mov byte [done], 0
    code("89DA 83C2 04 66B8 {table} 0000 66EF")  # dx = bx + 4: out eax, the table's address
    code("89DA 83C2 02 B006 EE")  # bx + 2: clear interrupt and error
    code(f"89DA B0 {direction} EE")  # bx: direction
    for port, value in (
        (0x3F6, 0x08),  # device control: nIEN is 0
        (0x1F2, sectors),
        (0x1F3, lba),
        (0x1F4, 0),
        (0x1F5, 0),
        (0x1F6, 0xE0),
        (0x1F7, int(command, 16)),
    ):
        out(port, value)
    code(f"89DA B0 {int(direction, 16) | 1:02X} EE")  # start
    number = f"{command}_{lba}"
    code.label(f"wait{number}")(f"FA 803E {{done}} 00 75 <done{number}> FB F4 EB <wait{number}>")
    code.label(f"done{number}")("FB 89DA B000 EE")  # stop
    code("A0 {done} 2444 3C04 0F85 (failed)")  # bus master status: interrupt, not error


def test_dma_and_interrupts(machine: Machine, tmp_path: Path, commands: Commands) -> None:
    """Debian's SeaBIOS is built without ATA DMA: the boot sector drives the bus master itself."""
    code = begin()
    code("C706 D801 {handler} C706 DA01 0000")  # vector 76h: [1D8h]
    code("E421 24FB E621 E4A1 24BF E6A1")  # unmask interrupts 2 and 14
    # PCI 00:01.1: bus master on, BX = BAR4 without its flag
    code("BAF80C 66B8 04090080 66EF BAFC0C B80500 EF")
    code("BAF80C 66B8 20090080 66EF BAFC0C 66ED 24F0 89C3")
    dma(code, "C8", "08", lba=1)  # READ DMA to memory
    dma(code, "CA", "00", lba=7)  # WRITE DMA from it
    say(code, "ok")
    end(code)
    code.label("handler")("50 52 BAF701 EC 89DA 83C2 02 EC A2 {done} EE")  # status, bus master's
    code("B020 E6A0 E620 5A 58 CF")  # end of interrupt, twice
    code.data("done", b"\0").data("ok", b"OK\n\0")
    code.align(4).data(
        "table", BUFFER.to_bytes(4, "little") + (512 | 1 << 31).to_bytes(4, "little")
    )
    image = disk_file(tmp_path / "disk.img", code.sector())
    attach_disk(machine, image)
    assert machine.boot() == "OK\n"
    assert image.read_bytes()[7 * 512 : 8 * 512] == PATTERN
    assert any(line.startswith("READ DMA 0x1+0x1") for line in commands())
    assert any(line.startswith("WRITE DMA 0x7+0x1") for line in commands())


def cd_image(boot: bytes) -> bytes:
    """An ISO 9660 image that boots without emulating a disk (El Torito)."""
    iso = pycdlib.PyCdlib()
    iso.new(vol_ident="DRIVEBAY")
    iso.add_fp(io.BytesIO(boot), len(boot), "/BOOT.;1")
    iso.add_eltorito("/BOOT.;1", boot_load_size=4)
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return image.getvalue()


def test_a_cd_boots(machine: Machine, tmp_path: Path, commands: Commands) -> None:
    """The boot image reads the volume descriptor at block 16 and prints its name."""
    code = begin()
    say(code, "hello")
    int13(code, "0042", "read")
    code(f"C606 {(BUFFER + 6).to_bytes(2, 'little').hex()} 00")  # a zero behind "CD001"
    code(f"BE {(BUFFER + 1).to_bytes(2, 'little').hex()} E8 (print)")
    end(code)
    code.data("hello", b"hello from the CD\n\0").data("read", packet(1, BUFFER, 16))
    path = tmp_path / "cd.iso"
    path.write_bytes(cd_image(code.assemble().ljust(2048, b"\0")))
    drive = PacketDevice(Dvd(open_disk(f"file:{path}", read_only=True)), machine.engine)
    machine.ide.attach(1, 0, drive)
    assert machine.boot() == "hello from the CD\nCD001"
    assert b"DVD/CD" in machine.debug
    assert any("READ(10)" in line or "READ 10" in line for line in commands()), commands()
