"""QEMU as a second reader and writer of VHD and VHDX images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.contract import Disk
from drivebay.disk.formats import vhd, vhdx
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import get, noise, put
from tests.qcow2.qemu import img, io

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
QEMU_NAMES = {"vhd": "vpc", "vhdx": "vhdx"}
MODULES: dict[str, Any] = {"vhd": vhd, "vhdx": vhdx}


def make(path: Path, size: int, **options: Any) -> Disk:
    format = path.suffix[1:]
    with path.open("wb") as file:
        file.truncate(512)
    below = FileDisk(str(path))
    MODULES[format].create(below, size, **options)
    below.close()
    return open_disk(f"{format}:{path}")


def places(size: int) -> list[tuple[int, bytes]]:
    """What to write where: the first and last bytes, and some between."""
    length = min(64 * KIB, size // 8 // 512 * 512)
    found = {0, size - length, size // 3 // 4096 * 4096, size // 2 // MIB * MIB}
    return [(at, noise(min(length, size - at), number)) for number, at in enumerate(sorted(found))]


def same_in_qemu(path: Path, tmp_path: Path, size: int) -> None:
    """QEMU finds the size and the data that were written, and ours reads what it does."""
    name = QEMU_NAMES[path.suffix[1:]]
    assert f"({size} bytes)" in img("info", "-f", name, path)
    if name == "vhdx":
        assert "No errors" in img("check", "-f", name, path)
    for number, (at, data) in enumerate(places(size)):
        raw = tmp_path / f"part-{number}"
        whole = f"driver=raw,offset={at},size={len(data)},file.driver={name}"
        whole += f",file.file.driver=file,file.file.filename={path}"
        img("convert", "-O", "raw", "--image-opts", whole, raw)
        assert raw.read_bytes() == data


OURS = [
    ("vhd", 64 * KIB, {"kind": vhd.DiskType.FIXED}),
    ("vhd", 10 * MIB + 512, {"kind": vhd.DiskType.FIXED}),
    ("vhd", 3 * GIB, {"kind": vhd.DiskType.FIXED}),
    ("vhd", 64 * KIB, {}),
    ("vhd", 10 * MIB + 512, {}),
    ("vhd", 127 * GIB, {}),
    ("vhd", 2040 * GIB, {}),
    ("vhd", 100 * MIB, {"block_size": 512 * KIB}),
    ("vhdx", 64 * KIB, {}),
    ("vhdx", 10 * MIB + 512, {}),
    ("vhdx", 10 * MIB, {"fixed": True}),
    ("vhdx", 5 * GIB + 512, {"block_size": MIB}),
    ("vhdx", 2 * TIB, {"block_size": 32 * MIB}),
    ("vhdx", 64 * TIB, {"block_size": 256 * MIB}),
]


@pytest.mark.parametrize(("format", "size", "options"), OURS)
def test_qemu_reads_our_image(
    format: str, size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / f"ours.{format}"
    disk = make(path, size, **options)
    for at, data in places(size):
        put(disk, at // 512, data)
    disk.close()
    same_in_qemu(path, tmp_path, size)
    below = FileDisk(str(path), read_only=True)
    assert MODULES[format].check(below) == []
    below.close()
    disk = open_disk(f"{format}:{path}", read_only=True)
    for at, data in places(size):
        assert get(disk, at // 512, len(data) // 512) == data
    disk.close()


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_qemu_writes_where_we_wrote_and_we_read_both(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"both.{format}"
    disk = make(path, 64 * MIB)
    put(disk, 100, noise(300 * 512))
    run(disk.unmap(0, (2 * MIB) // 512))
    put(disk, 8, noise(512))
    disk.close()
    io(path, "write -P 7 1M 3M", "write -P 8 40M 64k", format=QEMU_NAMES[format])
    disk = open_disk(f"{format}:{path}")
    assert get(disk, 8, 1) == noise(512)
    assert get(disk, 9, 1) == bytes(512)
    assert get(disk, 2048, 6144) == b"\7" * (3 * MIB)
    assert get(disk, 40 * 2048, 129) == b"\x08" * (64 * KIB) + bytes(512)
    put(disk, 2048, noise(4096))
    disk.close()
    io(path, "read -P 7 1028k 64k", "read -P 8 40M 64k", format=QEMU_NAMES[format])


THEIRS = [
    ("vhd", "10M", "subformat=fixed,force_size=on"),
    ("vhd", "10M", "subformat=fixed"),
    ("vhd", "10M", "subformat=dynamic"),
    ("vhd", "64k", "subformat=dynamic,force_size=on"),
    ("vhd", "2040G", "subformat=dynamic,force_size=on"),
    ("vhdx", "10M", "subformat=fixed"),
    ("vhdx", "64k", "subformat=dynamic"),
    ("vhdx", "10M", "subformat=dynamic,block_size=1M"),
    ("vhdx", "3G", "subformat=dynamic,block_state_zero=off"),
    ("vhdx", "2T", "subformat=dynamic"),
    ("vhdx", "64T", "subformat=dynamic,block_size=256M"),
]


@pytest.mark.parametrize(("format", "size", "options"), THEIRS)
def test_we_read_and_write_the_image_of_qemu(
    format: str, size: str, options: str, tmp_path: Path
) -> None:
    path, name = tmp_path / f"theirs.{format}", QEMU_NAMES[format]
    img("create", "-f", name, "-o", options, path, size)
    io(path, "write -P 5 0 4k", "write -P 6 12k 16k", format=name)
    disk = open_disk(f"{format}:{path}")
    expected = b"\5" * 4096 + bytes(8192) + b"\6" * 16384
    assert get(disk, 0, len(expected) // 512) == expected
    last = disk.sector_count - 8
    put(disk, last, b"\x09" * 4096)
    put(disk, 16, b"\x0a" * 1024)
    size_now = disk.byte_count
    disk.close()
    commands = ["read -P 5 0 4k", "read -P 10 8k 1k", "read -P 6 12k 16k", f"read -P 9 {last}s 4k"]
    commands[-1] = f"read -P 9 {last * 512} 4k"
    io(path, *commands, format=name)
    assert f"({size_now} bytes)" in img("info", "-f", name, path)
    below = FileDisk(str(path), read_only=True)
    assert not [p for p in MODULES[format].check(below) if p.severity.value == "damage"]
    below.close()
    if name == "vhdx":
        assert "No errors" in img("check", "-f", name, path)


def test_qemu_replays_our_log(tmp_path: Path) -> None:
    path = tmp_path / "dirty.vhdx"
    disk = make(path, 64 * MIB)
    put(disk, 0, noise(4 * MIB))
    run(disk.flush())
    put(disk, 40 * 2048, noise(4 * MIB, 2))
    run(disk.flush())
    below = disk.inner[0]
    below.close()  # as if the process had been killed
    img("check", "-r", "all", "-f", "vhdx", path)
    raw = tmp_path / "raw"
    img("convert", "-f", "vhdx", "-O", "raw", path, raw)
    data = raw.read_bytes()
    assert data[: 4 * MIB] == noise(4 * MIB)
    assert data[40 * MIB : 44 * MIB] == noise(4 * MIB, 2)
    disk = open_disk(f"vhdx:{path}")
    assert get(disk, 0, 8192) == noise(4 * MIB)
    disk.close()
