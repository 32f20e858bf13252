"""Hostile 2.8: headers that lie, parents that are none, and clusters where there can be none."""

from __future__ import annotations

import gc
import os
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.formats.qcow2 import Qcow2Disk, check
from drivebay.disk.formats.qcow2.header import Header, extension
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from tests.disk.support import get, noise, put
from tests.qcow2.hostile import (
    CLUSTER,
    COMPRESSED,
    SIZE,
    VALUES,
    compressed,
    deflated,
    first_entry,
    image,
    patched,
    samples,
    use,
)
from tests.qcow2.support import MIB, Ram, blank, content, is_clean, of_bytes


def refused(disk: Ram, read_only: bool = False) -> DiskOpenError:
    with pytest.raises(DiskOpenError) as caught:
        Qcow2Disk(disk, read_only=read_only)
    assert "\n" not in str(caught.value) + caught.value.hint
    return caught.value


U32, U64 = ">I", ">Q"
BAD = {
    "magic": (0, ">4s", b"QED\0", "not a qcow2 image"),
    "version 1": (4, U32, 1, "version 1"),
    "version 4": (4, U32, 4, "version 4"),
    "clusters of 256": (20, U32, 8, r"clusters of 2\^8"),
    "clusters of 4M": (20, U32, 22, r"clusters of 2\^22"),
    "clusters of 2^2^32": (20, U32, 0xFFFFFFFF, "clusters"),
    "no size": (24, U64, 0, "a disk of 0 bytes"),
    "size of 2^63": (24, U64, 1 << 63, "a disk of"),
    "L1 too short": (24, U64, 1 << 40, "an L1 table of"),
    "AES": (32, U32, 1, r"encrypted \(AES\)"),
    "LUKS": (32, U32, 2, r"encrypted \(LUKS\)"),
    "L1 too long": (36, U32, 0xFFFFFFFF, "an L1 table of"),
    "L1 past the end": (36, U32, 1 << 20, "L1 table at .* is not in the image"),
    "L1 in the header": (40, U64, 0, "overlaps"),
    "L1 not aligned": (40, U64, 4096 + 512, "is not in the image"),
    "L1 at 2^64": (40, U64, (1 << 64) - 4096, "is not in the image"),
    "refcounts in the L1": (48, U64, 3 * 4096, "overlaps"),
    "refcounts far away": (48, U64, 1 << 50, "is not in the image"),
    "refcount table of none": (56, U32, 0, "a refcount table of 0"),
    "refcount table of many": (56, U32, 0xFFFFFFFF, "a refcount table of"),
    "many snapshots": (60, U32, 0xFFFFFFFF, "snapshots"),
    "external data": (72, U64, 1 << 2, "external data file"),
    "an unknown feature": (72, U64, 1 << 62, "bit 62"),
    "small subclusters": (72, U64, 1 << 4, "subclusters"),
    "unknown compression": (72, U64, 1 << 3, "compression"),
    "refcounts of 128 bits": (96, U32, 7, r"refcounts of 2\^7"),
    "a long header": (100, U32, 1 << 20, "a header of"),
    "a short header": (100, U32, 72, "a header of"),
    "a crooked header": (100, U32, 105, "a header of"),
    "backing name outside": (8, ">QI", (5000, 10), "backing file's name"),
    "long backing name": (8, ">QI", (200, 1024), "backing file's name"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_header_that_lies_is_refused(what: str) -> None:
    offset, form, value, message = BAD[what]
    values = value if isinstance(value, tuple) else (value,)
    error = refused(patched(offset, struct.pack(form, *values)))
    assert re.search(message, str(error)), error


def test_an_image_that_ends_in_its_header_is_refused() -> None:
    raw = content(image())
    for size in (512, 1024, 4096):
        refused(of_bytes(raw[:size]))
    assert "not a qcow2 image" in str(refused(Ram(512)))


def test_an_unknown_feature_is_called_by_its_name() -> None:
    names = struct.pack(">BB46s", 0, 62, b"time travel") + struct.pack(">BB46s", 1, 61, b"no")
    after = extension(0x6803F857, names) + extension(0, b"")
    disk = patched(72, struct.pack(U64, 3 << 61), patched(Header.size, after))
    assert "time travel" in str(refused(disk)) and "bit 61" in str(refused(disk))


@pytest.mark.parametrize(("bit", "word"), [(0, "dirty"), (1, "corrupt")])
def test_a_marked_image_is_only_read(bit: int, word: str) -> None:
    disk = patched(72, struct.pack(U64, 1 << bit))
    assert word in str(refused(disk))
    Qcow2Disk(disk, read_only=True)


def test_a_dirty_image_can_be_repaired() -> None:
    disk = patched(72, struct.pack(U64, 1))
    assert check(disk, repair=True).clean
    Qcow2Disk(disk).close()
    is_clean(disk)


ENTRIES = {
    "past the end": 1 << 40 | 1 << 63,
    "not aligned": 4096 + 512 | 1 << 63,
    "at 2^55": 1 << 55 | 1 << 63,
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("level", [1, 2])
def test_an_entry_that_lies_fails_what_it_is_for(level: int, entry: str) -> None:
    disk = image()
    put(Qcow2Disk(disk), 0, noise(4096))
    bad = patched(first_entry(disk, level), struct.pack(U64, ENTRIES[entry]), disk)
    found = check(bad)
    assert found.corruptions and not found.clean
    with pytest.raises(DiskError, match=r"qcow2: an? (cluster|L2 table) at"):
        get(Qcow2Disk(bad, read_only=True), 0, 1)
    if (level, entry) == (1, "not aligned"):
        assert "overlap" in str(refused(bad))
        return
    opened = Qcow2Disk(bad)
    for _ in range(2):
        with pytest.raises(DiskError):
            get(opened, 0, 1)
        with pytest.raises(DiskError):
            put(opened, 0, bytes(512))


@pytest.mark.parametrize("where", [0, 1, 3, 4], ids=["header", "refcounts", "L1", "L2"])
def test_data_in_a_table_are_never_written(where: int) -> None:
    """An L2 entry that lies: the guest would write the tables themselves."""
    disk = blank(SIZE, cluster_size=4096)
    opened = Qcow2Disk(disk)
    put(opened, 0, noise(4096))
    opened.close()
    bad = patched(first_entry(disk, 2), struct.pack(U64, where * 4096 | 1 << 63), disk)
    before = content(bad)
    opened = Qcow2Disk(bad)
    for _ in range(2):
        with pytest.raises(DiskError):
            put(opened, 0, bytes([7]) * 512)
        with pytest.raises(DiskError):
            run(opened.write_zeroes(0, 8))
    opened.close()
    assert content(bad)[: 5 * 4096] == before[: 5 * 4096]


def test_tables_that_overlap_are_never_written() -> None:
    disk = blank(4 * MIB, cluster_size=4096)
    opened = Qcow2Disk(disk)
    for number in range(2):
        put(opened, number * 4096, noise(512))
    opened.close()
    l1 = first_entry(disk, 1)
    bad = patched(l1 + 8, bytes(content(disk)[l1 : l1 + 8]), disk)
    assert "tables overlap" in str(refused(bad))
    assert not check(bad).clean


def test_a_table_counted_as_free_is_not_given_away() -> None:
    disk = blank(SIZE, cluster_size=4096)
    bad = patched(2 * 4096, bytes(4096), disk)  # the only refcount block
    found = check(bad)
    assert found.corruptions == 4
    opened = Qcow2Disk(bad)
    with pytest.raises(DiskError, match="counted as free"):
        put(opened, 0, noise(512))
    opened.close()
    assert check(bad, repair=True).clean
    assert check(bad).clean
    is_clean(bad)


def test_leaks_are_found_and_freed() -> None:
    disk = image()
    block = 2 * 4096
    bad = patched(block + 2 * 1000, struct.pack(">HHH", 1, 2, 1), disk)
    found = check(bad)
    assert (found.leaks, found.corruptions, found.clean) == (3, 0, False)
    assert "cluster 0x3e8 is used 0 times and counted 1 times" in found.problems
    assert check(bad, repair=True).repaired == 3
    is_clean(bad)


# -- compressed clusters ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"\xff" * 600, bytes(600), deflated(bytes(4000))], ids=["noise", "none", "short"]
)
def test_a_compressed_cluster_that_is_none_fails_the_read(data: bytes) -> None:
    with pytest.raises(DiskError, match="a compressed cluster"):
        get(Qcow2Disk(compressed(data), read_only=True), 0, 1)


def test_a_compressed_cluster_is_read_and_given_up() -> None:
    text = noise(64) * 64
    disk = compressed(deflated(text + b"and more than a cluster"))
    opened = Qcow2Disk(disk)
    assert get(opened, 0, 8) == text
    put(opened, 3, bytes(512))
    assert get(opened, 0, 8) == text[:1536] + bytes(512) + text[2048:]
    opened.close()
    is_clean(disk)


def test_a_compressed_cluster_past_the_end_fails_the_read() -> None:
    disk = compressed(deflated(bytes(CLUSTER)))
    far = patched(first_entry(disk, 2), struct.pack(U64, COMPRESSED | 1 << 50), disk)
    with pytest.raises(DiskError, match="a compressed cluster at"):
        get(Qcow2Disk(far, read_only=True), 0, 1)


# -- parents ---------------------------------------------------------------------------------------


def child(folder: Path, backing: str, format: str = "raw", name: str = "top.qcow2") -> str:
    path = folder / name
    path.write_bytes(content(blank(MIB, backing=backing, backing_format=format)))
    return str(path)


def test_a_parent_is_followed_only_when_that_was_asked_for(tmp_path: Path) -> None:
    """CVE-2024-4467."""
    (tmp_path / "base").write_bytes(noise(MIB))
    top = child(tmp_path, "base")
    with pytest.raises(DiskOpenError, match="stands on base") as caught:
        open_disk(f"qcow2:{top}")
    assert f"qcow2:chain:{top}" in caught.value.hint
    disk = open_disk(f"qcow2:chain:{top}")
    assert content(disk) == noise(MIB)
    disk.close()


@pytest.mark.parametrize(
    "backing", ["json:{}", "nbd:localhost:10809", "nbd://host/x", "file:base", "http://host/x"]
)
def test_a_parent_is_no_protocol(backing: str, tmp_path: Path) -> None:
    with pytest.raises(DiskOpenError, match="not the path of a file"):
        open_disk(f"qcow2:chain:{child(tmp_path, backing)}")


def test_a_parent_is_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    for backing in ("fifo", "/dev/zero", ".", "loop", "missing"):
        with pytest.raises(DiskOpenError):
            open_disk(f"qcow2:chain:{child(tmp_path, backing)}")


def test_a_parent_says_what_it_is(tmp_path: Path) -> None:
    """Nobody probes: a raw disk's guest could write a header that names files."""
    (tmp_path / "base").write_bytes(noise(MIB))
    for format in ("vmdk", "json:"):
        with pytest.raises(DiskOpenError, match="format"):
            open_disk(f"qcow2:chain:{child(tmp_path, 'base', format)}")
    raw = bytearray(Path(child(tmp_path, "base")).read_bytes())
    raw[104:108] = struct.pack(U32, 0x12345678)
    (tmp_path / "silent.qcow2").write_bytes(raw)
    with pytest.raises(DiskOpenError, match="does not say what format") as caught:
        open_disk(f"qcow2:chain:{tmp_path / 'silent.qcow2'}")
    assert "rebase" in caught.value.hint


def test_a_chain_that_bites_its_tail_ends(tmp_path: Path) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    one = child(tmp_path, "two", "qcow2", "one")
    child(tmp_path, "three", "qcow2", "two")
    child(tmp_path, "one", "qcow2", "three")
    with pytest.raises(DiskOpenError, match="stands on itself"):
        open_disk(f"qcow2:chain:{one}", read_only=True)
    for number in range(300):
        child(tmp_path, str(number + 1), "qcow2", str(number))
    with pytest.raises(DiskOpenError, match="more than 256"):
        open_disk(f"qcow2:chain:{tmp_path / '0'}", read_only=True)
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


# -- anything --------------------------------------------------------------------------------------

GOOD = samples()


@settings(max_examples=150, deadline=None)
@given(
    which=st.integers(0, len(GOOD) - 1),
    patches=st.lists(
        st.tuples(
            st.integers(0, 1 << 16),
            st.sampled_from(VALUES) | st.integers(0, (1 << 64) - 1),
            st.sampled_from((4, 8)),
        ),
        max_size=4,
    ),
)
def test_a_spoilt_image_does_what_it_can(which: int, patches: list[tuple[int, int, int]]) -> None:
    sample = GOOD[which]
    raw = bytearray(sample.data)
    for number, value, width in patches:
        place = sample.places[number % len(sample.places)]
        raw[place : place + width] = (value & (1 << width * 8) - 1).to_bytes(width, "big")
    tracemalloc.start()
    try:
        use(of_bytes(raw))
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
