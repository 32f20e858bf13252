"""IDENTIFY as hdparm reads it, and the write cache as the disk has it."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.ata.packet import PacketDevice
from drivebay.disk.spec import open_disk
from drivebay.drivers.ide import Identity
from drivebay.guests import debian
from drivebay.guests.errors import GuestError
from drivebay.platform.engine import Engine
from drivebay.scsi.dvd import Dvd

from .conftest import MakeBench
from .support import filled

CACHES = {
    "writeback": True,
    "none": True,
    "writethrough": False,
    "directsync": False,
    "unsafe": True,
}
"""Modes of a file disk, and whether the guest sees a write cache (docs/disks.md)."""
WRITE_CACHE = 1 << 5  # of words 82 and 85


@pytest.fixture(scope="session")
def hdparm() -> list[str]:
    """The command that runs hdparm of the guest tools, with their own C library."""
    try:
        tree = debian.tree(debian.GUEST)
    except GuestError as error:
        pytest.skip(f"NO hdparm, so nobody else reads our IDENTIFY data: {error}")
    loader = tree / "lib64" / "ld-linux-x86-64.so.2"
    libraries = tree / "lib" / "x86_64-linux-gnu"
    return [str(loader), "--library-path", str(libraries), str(tree / "sbin" / "hdparm")]


def shown(hdparm: list[str], identity: Identity) -> list[str]:
    """The lines of ``hdparm -I``, without white space but single spaces."""
    words = struct.unpack("<256H", identity.raw)
    rows = (" ".join(f"{word:04x}" for word in words[n : n + 8]) for n in range(0, 256, 8))
    text = "\n".join(rows) + "\n"
    done = subprocess.run(
        [*hdparm, "--Istdin"], input=text, capture_output=True, text=True, check=True, timeout=30
    )
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_a_disk(hdparm: list[str], make_bench: MakeBench, engine: Engine, tmp_path: Path) -> None:
    disk = open_disk(f"file:{tmp_path / 'disk.img'};create=300G")
    drive = AtaDisk(disk, engine, model="A disk for you", serial="S-0815", firmware="2.7b")
    driver = make_bench({(0, 0): drive}).driver().disk(0, 0)
    driver.set_multiple(8)
    lines = shown(hdparm, driver.identify())
    for line in (
        "ATA device, with non-removable media",
        "Model Number: A disk for you",
        "Serial Number: S-0815",
        "Firmware Revision: 2.7b",
        "Supported: 8 7 6 5",
        "cylinders 16383 16383",
        "heads 16 16",
        "sectors/track 63 63",
        "LBA user addressable sectors: 268435455",
        f"LBA48 user addressable sectors: {300 << 21}",
        "Logical Sector size: 512 bytes",
        "device size with M = 1024*1024: 307200 MBytes",
        "LBA, IORDY(can be disabled)",
        "R/W multiple sector transfer: Max = 16 Current = 8",
        "DMA: mdma0 mdma1 mdma2 udma0 udma1 udma2 udma3 udma4 *udma5",
        "PIO: pio0 pio1 pio2 pio3 pio4",
        "* SMART feature set",
        "* Write cache",
        "* Look-ahead",
        "* Host Protected Area feature set",
        "* 48-bit Address feature set",
        "* Mandatory FLUSH_CACHE",
        "* FLUSH_CACHE_EXT",
        "* WRITE_{DMA|MULTIPLE}_FUA_EXT",
        "* Data Set Management TRIM supported (limit 8 blocks)",
        "* Deterministic read ZEROs after TRIM",
        "CBLID- above Vih",
        "Checksum: correct",
    ):
        assert line in lines, f"{line}\n" + "\n".join(lines)
    disk.close()


def test_what_settings_change(
    hdparm: list[str], make_bench: MakeBench, engine: Engine, tmp_path: Path
) -> None:
    disk = open_disk(f"file:{tmp_path / 'disk.img'};create=1M")
    driver = make_bench({(0, 1): AtaDisk(disk, engine)}).driver().disk(0, 1)
    driver.write_cache(False)
    driver.set_max(1199)
    driver.initialize_parameters(3, 5)
    driver.set_transfer_mode(4, 1)
    driver.set_features(0x05, 0x40)
    lines = shown(hdparm, driver.identify())
    for line in (
        "Write cache",
        "LBA48 user addressable sectors: 1200",
        "heads 4 3",
        "sectors/track 17 5",
        "DMA: mdma0 *mdma1 mdma2 udma0 udma1 udma2 udma3 udma4 udma5",
        "Advanced power management level: 64",
        "R/W multiple sector transfer: Max = 16 Current = ?",
        "Checksum: correct",
    ):
        assert line in lines, f"{line}\n" + "\n".join(lines)
    disk.close()


def test_a_disk_of_4096_byte_sectors(
    hdparm: list[str], make_bench: MakeBench, engine: Engine
) -> None:
    drive = AtaDisk(filled(1 << 20, sector_size=4096), engine)
    lines = shown(hdparm, make_bench({(0, 0): drive}).driver().disk(0, 0).identify())
    assert "Logical Sector size: 4096 bytes" in lines
    assert "Physical Sector size: 4096 bytes" in lines


def test_a_packet_device(hdparm: list[str], make_bench: MakeBench, engine: Engine) -> None:
    drive = PacketDevice(Dvd(), engine, model="A DVD drive", serial="D1", firmware="3")
    lines = shown(hdparm, make_bench({(1, 0): drive}).driver().cd(1, 0).identify())
    for line in (
        "ATAPI CD-ROM, with removable media",
        "Model Number: A DVD drive",
        "Serial Number: D1",
        "Firmware Revision: 3",
        "DRQ response: 50us.",
        "Packet size: 12 bytes",
        "LBA, IORDY(cannot be disabled)",
        "DMA: mdma0 mdma1 mdma2 udma0 udma1 udma2 udma3 udma4 *udma5",
        "* DEVICE_RESET command",
        "* PACKET command feature set",
    ):
        assert line in lines, f"{line}\n" + "\n".join(lines)


@pytest.mark.parametrize(("mode", "cached"), CACHES.items())
def test_the_write_cache_is_the_disks(
    hdparm: list[str],
    make_bench: MakeBench,
    engine: Engine,
    tmp_path: Path,
    mode: str,
    cached: bool,
) -> None:
    """What IDENTIFY announces is what there is, or guests never flush (hostile.md 2.2)."""
    disk = open_disk(f"file:{tmp_path / 'disk.img'};create=1M;cache={mode}")
    assert disk.volatile_cache is cached
    driver = make_bench({(0, 0): AtaDisk(disk, engine)}).driver().disk(0, 0)
    identity = driver.identify()
    assert bool(identity.words.commands_1 & WRITE_CACHE) is cached
    assert bool(identity.words.enabled_1 & WRITE_CACHE) is cached
    assert ("* Write cache" in shown(hdparm, identity)) is cached
    disk.close()
