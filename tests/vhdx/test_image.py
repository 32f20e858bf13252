"""What is VHDX's own: write GUIDs, headers by turns, unmapped blocks, parents, damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError, InvalidInput, IoError, ReadOnly
from drivebay.disk.formats import vhd, vhdx
from drivebay.disk.formats.vhdx import structs
from drivebay.disk.formats.vhdx.image import VhdxImage
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import get, noise, put
from tests.vhd.support import Kept
from tests.vhd.test_faults import Failing

MIB = 1 << 20
TABLE = 3 * MIB


def new(**options: Any) -> RamDisk:
    store = RamDisk(4096)
    vhdx.create(store, 4 * MIB, **{"block_size": MIB, **options})
    return store


def opened(store: Disk, read_only: bool = False) -> VhdxImage:
    return vhdx.open_vhdx(Kept(store), read_only=read_only)


def entry(store: Disk, index: int) -> int:
    return int.from_bytes(get(store, TABLE // 512, 1)[8 * index : 8 * index + 8], "little")


def set_entry(store: Disk, index: int, value: int) -> None:
    sector = bytearray(get(store, TABLE // 512, 1))
    sector[8 * index : 8 * index + 8] = value.to_bytes(8, "little")
    put(store, TABLE // 512, bytes(sector))


def headers(store: Disk) -> list[structs.Header]:
    return [structs.Header.unpack(get(store, at // 512, 1)) for at in structs.HEADER_AT]


def test_the_first_write_changes_the_guids_and_headers_take_turns() -> None:
    store = new()
    image = opened(store)
    before = image.headers.current
    get(image, 0, 1)
    assert image.headers.current == before, "a read changed the header"
    put(image, 0, noise(512))
    first = image.headers.current
    assert first.file_write_guid != before.file_write_guid
    assert first.data_write_guid != before.data_write_guid
    assert first.sequence_number == before.sequence_number + 1
    put(image, 0, noise(512))
    assert image.headers.current == first
    run(image.flush())
    logged = image.headers.current
    assert logged.log_guid != bytes(16)
    image.close()
    numbers = sorted(header.sequence_number for header in headers(store))
    assert numbers == [logged.sequence_number, logged.sequence_number + 1]
    assert opened(store).headers.current.log_guid == bytes(16)


def test_an_unmapped_block_keeps_its_place_and_is_given_it_again() -> None:
    store = new()
    image = opened(store)
    put(image, 0, noise(2 * MIB))
    run(image.flush())
    place, size = entry(store, 1) & ~0xFFFFF, store.byte_count
    run(image.unmap(2048, 2048))
    run(image.flush())
    assert entry(store, 1) == place | structs.State.UNMAPPED
    assert not any(get(store, place // 512, 2048))
    image.close()
    image = opened(store)
    assert get(image, 2048, 2048) == bytes(MIB)
    put(image, 2050, noise(512))
    image.close()
    assert (entry(store, 1), store.byte_count) == (place | structs.State.FULLY_PRESENT, size)
    image = opened(store, read_only=True)
    assert get(image, 2048, 4) == bytes(1024) + noise(512) + bytes(512)


def test_a_new_place_reads_zero_whatever_was_there() -> None:
    """A power cut may leave bytes of a block that no table knows."""
    store = new()
    run(store.resize(store.sector_count + 4096))
    put(store, store.sector_count - 4096, noise(2 * MIB))
    image = opened(store)
    put(image, 5, noise(512))
    assert get(image, 0, 2048) == bytes(5 * 512) + noise(512) + bytes(2042 * 512)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: 8 * MIB | 6, 1: 8 * MIB | 6}, "share"),
        ({0: 5 * MIB | 6}, None),
        ({0: 1 << 50 | 6}, "image of"),
        ({0: 0 | 6}, "lies on"),
        ({0: MIB | 6}, "lies on"),
        ({0: TABLE | 6}, "lies on"),
        ({2: 4}, "state 4"),
        ({2: 7}, "state 7"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(
    changes: dict[int, int], message: str | None
) -> None:
    """Hostile 2.8: BAT beyond the file, two BAT entries to one block."""
    store = new()
    run(store.resize(10 * MIB // 512))
    for index, value in changes.items():
        set_entry(store, index, value)
    if message is None:
        opened(store).close()
        return
    with pytest.raises(DiskOpenError, match=message):
        opened(store)
    assert message in vhdx.check(store)[0].text


def test_a_damaged_header_or_region_table_has_a_second() -> None:
    store = new()
    put(store, structs.HEADER_AT[0] // 512, bytes(512))
    put(store, structs.REGIONS_AT[0] // 512, bytes(512))
    assert [problem.severity.value for problem in vhdx.check(store)] == ["damage", "damage"]
    opened(store).close()
    put(store, structs.HEADER_AT[1] // 512, bytes(512))
    with pytest.raises(DiskOpenError, match="neither header"):
        opened(store)


def test_a_fixed_image_ignores_unmaps_and_has_all_its_space() -> None:
    store = new(fixed=True)
    image = opened(store)
    size = store.byte_count
    put(image, 0, noise(4 * MIB))
    run(image.unmap(0, image.sector_count))
    assert get(image, 0, image.sector_count) == noise(4 * MIB)
    assert store.byte_count == size
    assert image.details["type"] == "fixed"


def test_an_anchor_that_another_block_has_is_forgotten() -> None:
    store = new()
    image = opened(store)
    put(image, 0, noise(512))
    image.close()
    place = entry(store, 0) & ~0xFFFFF
    set_entry(store, 1, place | structs.State.UNMAPPED)
    image = opened(store)
    assert get(image, 2048, 1) == bytes(512)
    put(image, 2048, noise(512, 1))
    assert get(image, 0, 2) == noise(512) + bytes(512)
    image.close()
    assert vhdx.check(store) == []
    assert entry(store, 1) & ~0xFFFFF != place


def test_a_resize_that_fails_leaves_the_size_as_it_was() -> None:
    for at in range(1, 20):
        store = new()
        failing = Failing(store, "io", 1 << 60, always=False)
        image = opened(failing)
        put(image, 0, noise(512))
        failing.at = failing.met + at
        try:
            run(image.resize(3 * MIB // 512))
        except IoError:
            size = 4 * MIB
        else:
            size = 3 * MIB
        assert image.byte_count == size
        failing.at = 1 << 60
        run(image.flush())
        image.close()
        image = opened(store)
        assert image.byte_count == size
        assert get(image, 0, 1) == noise(512)
        image.close()


def test_resize_says_what_it_cannot_do() -> None:
    store = new()
    image = opened(store)
    with pytest.raises(InvalidInput, match="no room"):
        run(image.resize(1 << 32))
    with pytest.raises(ReadOnly):
        run(opened(store, read_only=True).resize(8))
    assert image.byte_count == 4 * MIB


# -- parents ---------------------------------------------------------------------------------------


def make_chain(folder: Path, format: str, depth: int = 3) -> list[Path]:
    """Images on each other; each has written its number into the sector of that number."""
    module, opener = (vhd, vhd.open_vhd) if format == "vhd" else (vhdx, vhdx.open_vhdx)
    paths = [folder / f"{number}.{format}" for number in range(depth)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(512))
        options: dict[str, Any] = {}
        parent = None
        if number:
            parent = opener(FileDisk(str(paths[number - 1]), read_only=True), read_only=True)
            options = {"parent": parent, "parent_path": paths[number - 1].name}
            if format == "vhd":
                options["kind"] = vhd.DiskType.DIFFERENCING
        below = FileDisk(str(path))
        module.create(below, 4 * MIB, **options)
        below.close()
        if parent is not None:
            parent.close()
        disk = open_disk(f"{format}:chain:{path}")
        put(disk, number, noise(512, number))
        disk.close()
    return paths


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_a_chain_is_one_disk(format: str, tmp_path: Path) -> None:
    paths = make_chain(tmp_path, format)
    disk = open_disk(f"{format}:chain:{paths[-1]}")
    assert isinstance(disk, LayeredDisk)
    assert get(disk, 0, 4) == b"".join(noise(512, number) for number in range(3)) + bytes(512)
    put(disk, 0, noise(512, 9))
    run(disk.write_zeroes(1, 1))
    disk.close()
    disk = open_disk(f"{format}:chain:{paths[-1]}", read_only=True)
    assert get(disk, 0, 3) == noise(512, 9) + bytes(512) + noise(512, 2)
    disk.close()


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_a_parent_is_followed_only_when_asked(format: str, tmp_path: Path) -> None:
    """Hostile 2.8, CVE-2024-4467."""
    paths = make_chain(tmp_path, format, 2)
    with pytest.raises(DiskOpenError, match=f"stands on 0.{format}") as caught:
        open_disk(f"{format}:{paths[1]}")
    assert f"{format}:chain:" in caught.value.hint


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_a_description_may_ask_for_the_chain(format: str, tmp_path: Path) -> None:
    paths = make_chain(tmp_path, format, 2)
    described = {"kind": format, "chain": True, "disk": {"kind": "file", "path": str(paths[1])}}
    description = tmp_path / "stack.json"
    description.write_text(json.dumps(described))
    disk = open_disk(f"@{description}", read_only=True)
    assert get(disk, 0, 2) == noise(512) + noise(512, 1)
    disk.close()
    described["chain"] = False
    description.write_text(json.dumps(described))
    with pytest.raises(DiskOpenError, match="not asked for"):
        open_disk(f"@{description}")


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_another_image_in_the_parents_place_is_refused(format: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    paths, others = make_chain(first, format, 2), make_chain(second, format, 2)
    paths[0].write_bytes(others[0].read_bytes())
    with pytest.raises(DiskOpenError, match="was made on") as caught:
        open_disk(f"{format}:chain:{paths[1]}")
    assert caught.value.hint


def test_a_parent_that_was_written_since_is_refused(tmp_path: Path) -> None:
    paths = make_chain(tmp_path, "vhdx", 2)
    disk = open_disk(f"vhdx:{paths[0]}")
    put(disk, 9, noise(512))
    disk.close()
    with pytest.raises(DiskOpenError, match="was made on"):
        open_disk(f"vhdx:chain:{paths[1]}")


@pytest.mark.parametrize("format", ["vhd", "vhdx"])
def test_an_image_that_stands_on_itself_is_refused(format: str, tmp_path: Path) -> None:
    """Hostile 2.8, loops in the chain."""
    paths = make_chain(tmp_path, format, 3)
    paths[0].unlink()
    paths[0].hardlink_to(paths[2])
    with pytest.raises(DiskOpenError, match=r"stands on itself|was made on"):
        open_disk(f"{format}:chain:{paths[2]}")


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_create_refuses_what_cannot_be(sector_size: int) -> None:
    for options in (
        {"block_size": 3 * MIB},
        {"block_size": 512 << 10},
        {"sector_size": 1024},
        {"parent_path": "x"},
        {"parent": RamDisk(4096), "parent_path": "x"},
    ):
        with pytest.raises(DiskOpenError):
            vhdx.create(RamDisk(4096), 4 * MIB, **{"sector_size": sector_size, **options})  # type: ignore[arg-type]
    for size in (0, 1000, (64 << 40) + 4096):
        with pytest.raises(DiskOpenError):
            vhdx.create(RamDisk(4096), size, sector_size=sector_size)
