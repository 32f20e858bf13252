"""A log of writes as a history: ours as exact as if we had been there, and those of others."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Operation
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.filters.record import Record
from drivebay.lab.powercut import ImageDisk, Log
from drivebay.suspend import run
from drivebay.testing import PowerCutDisk, PuppetDisk
from drivebay.testing.history import History, Kept
from tests.disk.support import Stepped, get, noise, put

SECTOR = 512
SIZE = 16 * SECTOR
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def left(history: History, base: RamDisk) -> list[tuple[list[int], bytes, bytes]]:
    """At each cut what may be there, and the disk without and with all of it."""
    found = []
    for cut in history.cuts():
        least, most = cut.image([]), cut.image([Kept(change) for change in cut.changes])
        contents = [get(ImageDisk(each, base), 0, base.sector_count) for each in (least, most)]
        found.append(([change.number for change in cut.changes], contents[0], contents[1]))
    return found


def shape(history: History) -> tuple[list[tuple[int, int, bool]], list[int]]:
    """What the changes are; and in what order they and the flushes begin and end."""
    moments = [moment for change in history.changes for moment in (change.began, change.ended)]
    moments += [moment for flush in history.flushes for moment in (flush.began, flush.ended)]
    order = sorted(range(len(moments)), key=lambda at: moments[at] or 0)
    return [(c.offset, c.length, c.fua) for c in history.changes], order


def begin(disk: Record, name: str, sector: int, count: int, seed: int) -> Operation:
    match name:
        case "write" | "fua":
            data = memoryview(bytearray(noise(count * SECTOR, seed)))
            return disk.write(sector, [data], name == "fua")
        case "zero":
            return disk.write_zeroes(sector, count)
        case "unmap":
            return disk.unmap(sector, count)
        case _:
            return disk.flush()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "fua", "zero", "unmap", "flush", "end", "end"]),
            st.integers(0, 15),
            st.integers(1, 4),
        ),
        max_size=16,
    )
)
def test_a_recording_says_what_one_that_was_there_says(steps: list[tuple[str, int, int]]) -> None:
    """Of operations that overlap in time, and end in any order."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "log")
        puppet = PuppetDisk(RamDisk(SIZE), holds=lambda name, sector, count: name != "read")
        there = PowerCutDisk(puppet)
        disk = Record(there, path)
        running: list[Stepped] = []
        for seed, (name, sector, length) in enumerate(steps):
            count = min(length, 16 - sector)
            if name == "end":
                if puppet.held:
                    puppet.held[seed % len(puppet.held)].complete()
                for each in running:
                    while each.calls:
                        each.work()
                continue
            running.append(Stepped(begin(disk, name, sector, count, seed)))
        while puppet.held:
            puppet.held[0].complete()
            for each in running:
                while each.calls:
                    each.work()
        disk.close()
        base = RamDisk(SIZE)
        with Log(path, SIZE, SECTOR) as log:
            assert shape(log.history) == shape(there.history)
            assert left(log.history, base) == left(there.history, base)


def test_marks_are_what_was_said(tmp_path: Path) -> None:
    disk = Record(RamDisk(SIZE), str(tmp_path / "log"))
    run(disk.mark(b"one "))
    put(disk, 0, bytes(512))
    run(disk.mark(b"two"))
    disk.close()
    with Log(str(tmp_path / "log"), SIZE, SECTOR) as log:
        said = [log.history.said(moment) for moment in range(5)]
    assert said == [b"", b"one ", b"one ", b"one ", b"one two"]


# -- those of others -------------------------------------------------------------------------------


def entry(sector: int, count: int, flags: int, data: bytes = b"") -> bytes:
    """As dm-log-writes has it: no times."""
    said = len(data) if flags & MARK else 0
    head = struct.pack("<QQQQ", sector, count, flags, said)
    if flags & MARK:
        return (head + data).ljust(SECTOR, b"\0")
    return head.ljust(SECTOR, b"\0") + data


def theirs(path: Path, *entries: bytes, count: int | None = None, size: int = SECTOR) -> str:
    total = len(entries) if count is None else count
    head = struct.pack("<QQQI", 0x6A736677736872, 1, total, size).ljust(SECTOR, b"\0")
    path.write_bytes(head + b"".join(entries))
    return str(path)


def test_a_log_of_the_kernel(tmp_path: Path) -> None:
    """Each ended before the next began; a flush with data comes before them."""
    path = theirs(
        tmp_path / "log",
        entry(0, 1, 0, b"a" * SECTOR),
        entry(1, 1, FUA, b"b" * SECTOR),
        entry(8, 2, DISCARD),
        entry(2, 1, FLUSH, b"c" * SECTOR),
        entry(0, 0, MARK, b"here"),
        entry(0, 0, MARK, b"dm-log-writes-end"),
    )
    base = RamDisk(SIZE)
    put(base, 0, b"x" * SIZE)
    with Log(path, SIZE, SECTOR) as log:
        cuts = list(log.history.cuts())
        assert [[c.number for c in cut.changes] for cut in cuts] == [[1, 2], [1, 3], [4]]
        last = log.history.image(f"{log.history.moment}:4")
        assert log.history.said(last.cut.moment) == b"here"
        found = get(ImageDisk(last, base), 0, 16)
    sectors = b"abcxxxxx" + b"\0\0" + b"x" * 6
    assert found == b"".join(bytes([byte]) * SECTOR for byte in sectors)


def test_a_log_of_qemu(tmp_path: Path) -> None:
    if shutil.which("qemu-io") is None:
        pytest.skip("qemu-io is not installed")
    paths = [str(tmp_path / name) for name in ("image", "log")]
    for path in paths:
        Path(path).touch()
        os.truncate(path, 1 << 20)
    image, log = paths
    options = f"file.driver=file,file.filename={image},log.driver=file,log.filename={log}"
    steps = ["write -P 17 0 1k", "flush", "discard 4k 4k", "write -P 2 8k 512"]
    subprocess.run(
        ["qemu-io", "--image-opts", f"driver=blklogwrites,{options},log-sector-size=512"]
        + [word for step in steps for word in ("-c", step)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with Log(log, 1 << 20, SECTOR) as found:
        first, *_ = found.history.cuts()
        shapes = [(c.offset, c.length, c.data is None) for c in found.history.changes]
        assert [change.number for change in first.changes] == [1]
    assert shapes == [(0, 1024, False), (4096, 4096, True), (8192, 512, False)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "no log of writes"),
        (bytes(SECTOR), "no log of writes"),
        (struct.pack("<QQQI", 0x6A736677736872, 2, 0, 512), "no log of writes"),
        (struct.pack("<QQQI", 0x6A736677736872, 1, 0, 100), "no log of writes"),
    ],
)
def test_what_is_no_log(text: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(text)
    with pytest.raises(DiskOpenError, match=why):
        Log(str(tmp_path / "log"), SIZE, SECTOR)


@pytest.mark.parametrize(
    ("entries", "count", "why"),
    [
        ([], 1 << 60, "entry 0: the log ends"),
        ([entry(0, 1, 0)], 1, "entry 0: the log ends"),
        ([entry(0, 1, 0, bytes(SECTOR))], 2, "entry 1: the log ends"),
        ([entry(16, 1, DISCARD)], 1, "8704 bytes are changed of a disk of 8192"),
        ([entry(1 << 63, 1 << 63, DISCARD)], 1, "of a disk of 8192"),
    ],
)
def test_a_log_that_lies(entries: list[bytes], count: int, why: str, tmp_path: Path) -> None:
    path = theirs(tmp_path / "log", *entries, count=count)
    with pytest.raises(DiskOpenError, match=why) as caught:
        Log(path, SIZE, SECTOR)
    assert caught.value.hint


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DiskOpenError, match="No such file"):
        Log(str(tmp_path / "log"), SIZE, SECTOR)


def test_a_log_that_becomes_shorter(tmp_path: Path) -> None:
    path = theirs(tmp_path / "log", entry(0, 1, 0, bytes(SECTOR)))
    with Log(path, SIZE, SECTOR) as log:
        image = log.history.image(f"{log.history.moment}:1")
        (tmp_path / "log").write_bytes(b"")
        with pytest.raises(DiskOpenError, match="shorter"):
            get(ImageDisk(image, RamDisk(SIZE)), 0, 1)
