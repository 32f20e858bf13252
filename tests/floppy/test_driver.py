"""Whole disks, by the driver: formatted, written and read, and what mtools says of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from drivebay.controllers.floppy import MEDIA, FloppyDrive, Medium
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import InvalidInput
from drivebay.disk.spec import open_disk
from drivebay.drivers.floppy import FloppyDisk, FloppyError, Via
from drivebay.platform.engine import Engine

from .support import HD, Bench, content, filled, noise

every_medium = pytest.mark.parametrize("medium", MEDIA, ids=lambda medium: medium.name)
every_way = pytest.mark.parametrize("via", Via)
polled_or_not = pytest.mark.parametrize("polled", [False, True], ids=["interrupts", "polled"])


def test_the_geometry_of_media() -> None:
    """openvmm.md section 9.2; a disk of 360K has 40 cylinders and two sides."""
    assert [(medium.byte_count, medium.cylinders, medium.sectors) for medium in MEDIA] == [
        (368640, 40, 9),
        (1228800, 80, 15),
        (737280, 80, 9),
        (1474560, 80, 18),
        (1720320, 80, 21),
        (1884160, 80, 23),
        (2949120, 80, 36),
    ]


@every_medium
@every_way
def test_a_disk_formatted_written_and_read(engine: Engine, medium: Medium, via: Via) -> None:
    ram = filled(medium)
    bench = Bench(engine, [FloppyDrive(ram)])
    disk = bench.disk(via, medium)
    disk.format(0xA5)
    assert content(ram) == b"\xa5" * medium.byte_count
    data = noise(medium.byte_count, 1)
    disk.write(0, data)
    assert content(ram) == data
    assert disk.read(0, medium.byte_count // 512) == data
    assert disk.driver.version == 0x90


@every_medium
@every_way
def test_a_fat_disk_that_mtools_knows(
    engine: Engine, medium: Medium, via: Via, tmp_path: Path
) -> None:
    """The guest formats the disk and copies to it what mtools made; mtools reads it back."""
    if shutil.which("mformat") is None:
        pytest.skip("mtools is not installed: apt install mtools")
    made, path, letter = tmp_path / "made.img", tmp_path / "disk.img", tmp_path / "letter"
    letter.write_bytes(noise(100_000))
    made.write_bytes(bytes(medium.byte_count))
    shape = ("-t", str(medium.cylinders), "-h", "2", "-s", str(medium.sectors))
    _mtools("mformat", "-i", made, *shape, "-v", "DRIVEBAY", "::")
    _mtools("mcopy", "-i", made, letter, "::LETTER")
    path.write_bytes(b"?" * medium.byte_count)
    file = open_disk(f"file:{path}")
    disk = Bench(engine, [FloppyDrive(file)]).disk(via, medium)
    disk.format()
    assert path.read_bytes() == b"\xf6" * medium.byte_count
    disk.write(0, made.read_bytes())
    assert "DRIVEBAY" in _mtools("mdir", "-i", path, "::")
    assert f"sectors per track: {medium.sectors}\n" in _mtools("minfo", "-i", path, "::")
    _mtools("mcopy", "-i", path, "::LETTER", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == letter.read_bytes()
    assert disk.read(0, medium.byte_count // 512) == path.read_bytes()
    file.close()


def _mtools(*words: str | Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@every_way
@polled_or_not
def test_pieces_of_a_disk(bench: Bench, via: Via, polled: bool) -> None:
    """From the middle of a track over both sides into the next cylinder."""
    disk = bench.disk(via, polled=polled)
    before = content(bench.ram)
    data = noise(50 * 512, 2)
    disk.write(11, data)
    assert content(bench.ram) == before[: 11 * 512] + data + before[61 * 512 :]
    assert disk.read(10, 52) == content(bench.ram)[10 * 512 : 62 * 512]


def test_an_empty_drive(bench: Bench) -> None:
    driver = bench.driver()
    with pytest.raises(FloppyError, match="no disk in the drive"):
        FloppyDisk(driver, 1, HD)


def test_no_drive(bench: Bench) -> None:
    with pytest.raises(FloppyError, match="no track 0"):
        FloppyDisk(bench.driver(), 2, HD)


def test_a_protected_disk(engine: Engine) -> None:
    disk = Bench(engine, [FloppyDrive(filled(read_only=True))]).disk()
    with pytest.raises(FloppyError, match="WRITE_DATA: NW"):
        disk.write(0, bytes(512))
    with pytest.raises(FloppyError, match="FORMAT_TRACK: NW"):
        disk.format()
    assert disk.read(0, 1) == noise(HD.byte_count)[:512]


def test_other_sizes_are_no_floppy_disks() -> None:
    with pytest.raises(InvalidInput, match=r"1048576 bytes are no floppy disk: .*1474560 \(1.44M"):
        FloppyDrive(RamDisk(1 << 20))
