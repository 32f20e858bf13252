"""QEMU makes images and drivebay reads them, and the other way round; both look for errors."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.qcow2 import Qcow2Disk, check, create
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import get, noise
from tests.qcow2.qemu import img, io
from tests.qcow2.support import KIB, MIB, SECTOR, Guest, content, is_clean

SIZE = 8 * MIB

VARIANTS = {
    "plain": "",
    "version-2": "compat=0.10",
    **{f"refcounts-{bits}": f"refcount_bits={bits}" for bits in (1, 2, 4, 8, 32, 64)},
    "clusters-512": "cluster_size=512",
    "clusters-2m": "cluster_size=2M",
    "lazy": "lazy_refcounts=on",
    "preallocated": "preallocation=metadata",
    "zlib": "compression_type=zlib",
    "zstd": "compression_type=zstd",
    "subclusters": "extended_l2=on,cluster_size=64k",
}


def made_by_qemu(folder: Path, options: str, compress: bool = False) -> tuple[Path, bytes]:
    """An image with data, zeroes and holes, and what is in it."""
    raw, image = folder / "raw", folder / "image.qcow2"
    chance = random.Random(1)
    data = bytearray(SIZE)
    for _ in range(40):
        start, length = chance.randrange(SIZE // SECTOR), chance.randrange(1, 400)
        text = noise(SECTOR, start) if start % 2 else bytes([start % 251]) * SECTOR
        data[start * SECTOR : (start + length) * SECTOR] = text * min(
            length, SIZE // SECTOR - start
        )
    raw.write_bytes(data)
    switches = ["-c"] if compress else []
    made = ["-o", options] if options else []
    img("convert", *switches, "-O", "qcow2", *made, raw, image)
    return image, bytes(data)


def opened(path: Path, read_only: bool = False) -> Qcow2Disk:
    return Qcow2Disk(FileDisk(str(path), ragged=True, read_only=read_only), read_only=read_only)


def file_is_clean(path: Path) -> None:
    img("check", path)
    disk = FileDisk(str(path), ragged=True, read_only=True)
    is_clean(disk)
    disk.close()


@pytest.mark.parametrize(
    ("variant", "compress"),
    [
        *((name, False) for name in VARIANTS),
        *((name, True) for name in VARIANTS if name != "preallocated"),
    ],
)
def test_what_qemu_makes_reads_the_same(variant: str, compress: bool, tmp_path: Path) -> None:
    image, data = made_by_qemu(tmp_path, VARIANTS[variant], compress)
    disk = opened(image, read_only=True)
    assert content(disk) == data
    found = check(disk.store.disk)
    assert found.clean, found.problems
    disk.close()
    if variant == "subclusters":
        with pytest.raises(DiskOpenError, match="subclusters"):
            opened(image)
        return
    disk = opened(image)
    guest = Guest(disk, seed=5)
    for _ in range(60):
        guest.step()
    assert content(disk) == guest.model
    disk.close()
    file_is_clean(image)
    raw = tmp_path / "expected"
    raw.write_bytes(guest.model)
    img("compare", "-f", "qcow2", "-F", "raw", image, raw)


def test_subclusters_over_a_backing_file(tmp_path: Path) -> None:
    base, image = tmp_path / "base", tmp_path / "image.qcow2"
    below = noise(MIB)
    base.write_bytes(below)
    img("create", "-f", "qcow2", "-o", "extended_l2=on", "-F", "raw", "-b", "base", image)
    io(image, "write -P 7 6k 3k", "write -z 100k 8k", "write -P 9 300k 100k")
    expected = bytearray(below)
    for start, length, value in ((6, 3, 7), (100, 8, 0), (300, 100, 9)):
        expected[start * KIB : (start + length) * KIB] = bytes([value]) * (length * KIB)
    disk = open_disk(f"qcow2:chain:{image}", read_only=True)
    assert content(disk) == expected
    disk.close()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("cluster_size", [512, 65536, 2 * MIB])
def test_what_drivebay_makes_qemu_uses(version: int, cluster_size: int, tmp_path: Path) -> None:
    image, raw = tmp_path / "image.qcow2", tmp_path / "raw"
    file = FileDisk(str(image), create=SECTOR)
    create(file, SIZE, version=version, cluster_size=cluster_size)
    disk = Qcow2Disk(file)
    guest = Guest(disk, seed=2)
    for round_ in range(3):
        for _ in range(40):
            guest.step()
        disk.close()
        file_is_clean(image)
        raw.write_bytes(guest.model)
        img("compare", "-f", "qcow2", "-F", "raw", image, raw)
        start = round_ * 70000 // SECTOR * SECTOR
        io(image, f"write -P {round_ + 1} {start} 100k", f"discard {start + 200 * KIB} 300k")
        guest.model[start : start + 100 * KIB] = bytes([round_ + 1]) * (100 * KIB)
        disk = opened(image)
        # version 2 may keep what was discarded
        there = content(disk)
        kept = start + 200 * KIB, start + 500 * KIB
        guest.model[slice(*kept)] = there[slice(*kept)]
        assert there == guest.model
        guest.disk = disk
    run(disk.resize(disk.sector_count * 3))
    guest.model += bytes(2 * SIZE)
    for _ in range(20):
        guest.step()
    run(disk.resize(SIZE // SECTOR // 2))
    del guest.model[SIZE // 2 :]
    disk.close()
    file_is_clean(image)
    raw.write_bytes(guest.model)
    img("compare", "-f", "qcow2", "-F", "raw", image, raw)


@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_snapshots_are_read_and_kept(compat: str, tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    img("create", "-f", "qcow2", "-o", f"compat={compat},cluster_size=4k", image, "2M")
    expected = []
    for number in range(3):
        io(image, f"write -P {number + 1} {number * 300}k 700k")
        with_it = opened(image, read_only=True)
        expected.append(bytes(content(with_it)))
        with_it.close()
        img("snapshot", "-c", f"shot {number}", image)
    disk = opened(image)
    assert [shot.name for shot in disk.snapshots] == ["shot 0", "shot 1", "shot 2"]
    assert disk.details["snapshots"] == 3
    guest = Guest(disk, seed=4)
    for _ in range(80):
        guest.step()
    disk.close()
    file_is_clean(image)
    for number, data in enumerate(expected):
        shot = open_disk(f"qcow2:snapshot=shot {number}:{image}")
        assert shot.read_only
        assert content(shot) == data
        shot.close()
        by_id = open_disk(f"qcow2:snapshot={number + 1}:{image}", read_only=True)
        assert get(by_id, 0, 1) == data[:SECTOR]
        by_id.close()
    with pytest.raises(DiskOpenError, match="has no snapshot 'no'") as caught:
        open_disk(f"qcow2:snapshot=no:{image}")
    assert caught.value.hint == "there are shot 0, shot 1, shot 2"
    after = opened(image, read_only=True)
    assert content(after) == guest.model
    after.close()
    img("snapshot", "-a", "shot 1", image)
    file_is_clean(image)
    again = opened(image)
    assert content(again) == expected[1]
    again.close()


def test_bitmaps_are_void_once_drivebay_has_written(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    img("create", "-f", "qcow2", image, "2M")
    img("bitmap", "--add", image, "dirty")
    io(image, "write -P 1 0 1M")
    disk = FileDisk(str(image), ragged=True)
    assert check(disk).clean
    Qcow2Disk(disk).close()
    assert "granularity" not in img("info", image)
    io(image, "write -P 2 0 1M")


def test_a_chain_of_formats(tmp_path: Path) -> None:
    raw, middle, top = tmp_path / "raw", tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
    raw.write_bytes(noise(MIB) + b"odd")
    img("create", "-f", "qcow2", "-b", "raw", "-F", "raw", middle)
    io(middle, "write -P 5 100k 200k")
    img("create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top, "2M")
    disk = open_disk(f"qcow2:chain:{top}")
    guest = Guest(disk, seed=6)
    assert guest.model[100 * KIB : 300 * KIB] == b"\5" * (200 * KIB)
    for _ in range(60):
        guest.step()
    assert content(disk) == guest.model
    disk.close()
    img("check", top)
    flat = tmp_path / "flat"
    flat.write_bytes(guest.model)
    img("compare", "-f", "qcow2", "-F", "raw", top, flat)


def test_a_lock_keeps_qemu_out(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    img("create", "-f", "qcow2", image, "2M")
    disk = opened(image)
    with pytest.raises(AssertionError, match="lock"):
        io(image, "write 0 512")
    disk.close()
