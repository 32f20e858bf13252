"""The log that dm-log-writes keeps, byte for byte, and in its order."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError, InvalidInput, IoError, NoSpace
from drivebay.disk.filters import record as record_module
from drivebay.disk.filters.record import Record
from drivebay.disk.spec import open_disk
from drivebay.suspend import run
from drivebay.testing import PuppetDisk
from tests.disk.support import Stepped, get, noise, put, view

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
END = b"dm-log-writes-end"


class Entry(NamedTuple):
    sector: int
    length: int
    flags: int
    data: bytes


def read_log(path: Path) -> tuple[int, list[Entry]]:
    """As the public tools read one: the numbers here are the format's, not the module's."""
    text = path.read_bytes()
    magic, version, total, size = struct.unpack_from("<QQQI", text)
    assert (magic, version) == (0x6A736677736872, 1)
    assert not any(text[28:size])
    entries, at = [], size
    for _ in range(total):
        sector, count, flags, length = struct.unpack_from("<QQQQ", text, at)
        data = text[at + 32 : at + 32 + length]
        assert not any(text[at + 32 + length : at + size - 24])
        at += size
        if not flags & (DISCARD | MARK):
            data = text[at : at + count * size]
            assert len(data) == count * size
            at += count * size
        entries.append(Entry(sector, count, flags, data))
    assert not any(text[at:])  # QEMU has made the file before
    return size, entries


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.mark.parametrize("size", [512, 4096])
def test_the_layout(size: int, log: Path) -> None:
    disk = Record(RamDisk(64 * size, sector_size=size), str(log))
    a, b = noise(2 * size, 1), noise(size, 2)
    put(disk, 3, a)
    run(disk.unmap(10, 4))
    run(disk.write_zeroes(20, 3))
    run(disk.flush())
    put(disk, 7, b, fua=True)
    run(disk.mark(b"here"))
    disk.close()
    assert read_log(log) == (
        size,
        [
            Entry(3, 2, 0, a),
            Entry(10, 4, DISCARD, b""),
            Entry(20, 3, 0, bytes(3 * size)),
            Entry(0, 0, FLUSH, b""),
            Entry(7, 1, FUA, b),
            Entry(0, 0, MARK, b"here"),
            Entry(0, 0, MARK, END),
        ],
    )


def test_qemus_blklogwrites_writes_the_same_bytes(log: Path, tmp_path: Path) -> None:
    if shutil.which("qemu-io") is None:
        pytest.skip("qemu-io is not installed")
    theirs, image = tmp_path / "theirs", tmp_path / "image"
    for path in (theirs, image):
        path.touch()
        os.truncate(path, 1 << 20)
    options = f"file.driver=file,file.filename={image},log.driver=file,log.filename={theirs}"
    steps = ["write -P 17 0 1k", "flush", "discard 4k 4k", "write -P 2 8k 512", "flush"]
    subprocess.run(
        ["qemu-io", "--image-opts", f"driver=blklogwrites,{options},log-sector-size=512"]
        + [word for step in steps for word in ("-c", step)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    disk = Record(RamDisk(1 << 20), str(log))
    put(disk, 0, bytes([17]) * 1024)
    run(disk.flush())
    run(disk.unmap(8, 8))
    put(disk, 16, bytes([2]) * 512)
    run(disk.flush())
    ours = log.read_bytes()
    disk.close()
    size, entries = read_log(theirs)
    assert entries[:5] == read_log(log)[1][:5]
    at = size
    for entry in entries[:5]:  # but for the times at the end of an entry's sector
        assert ours[at + size - 24 : at + size - 16] == b"drivebay"
        ours = ours[: at + size - 24] + bytes(24) + ours[at + size :]
        at += size + len(entry.data)
    assert theirs.read_bytes()[size : len(ours)] == ours[size:]
    assert theirs.read_bytes()[:16] == ours[:16]


def kinds(path: Path) -> list[object]:
    """The sectors of writes, with F and U for flushes and FUA."""
    _, entries = read_log(path)
    shown: list[object] = []
    for entry in entries:
        if entry.flags & MARK:
            continue
        shown.append(
            "F"
            if entry.flags & FLUSH
            else f"U{entry.sector}" * (entry.flags >> 1 & 1) or entry.sector
        )
    return shown


def test_the_order_is_that_of_completion_up_to_the_flush(log: Path) -> None:
    """The kernel's example: Wa,Wb,Wc,Cc,Ca,FLUSH,FUAd,Cb,CFLUSH,CFUAd."""
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk = Record(puppet, str(log))
    a, b, c = (Stepped(disk.write(n, [view(512)])) for n in (1, 2, 3))
    held = {op.sector: op for op in puppet.held}

    def end(sector: int, operation: Stepped) -> None:
        held[sector].complete()
        while operation.calls:
            operation.work()
        assert operation.done

    end(3, c)
    end(1, a)
    flush = Stepped(disk.flush())
    d = Stepped(disk.write(4, [view(512)], fua=True))
    held |= {op.sector: op for op in puppet.held if op.name == "write"}
    held[0] = next(op for op in puppet.held if op.name == "flush")
    end(2, b)
    end(0, flush)
    end(4, d)
    assert kinds(log) == [3, 1, "F", "U4"]
    disk.close()
    assert kinds(log) == [3, 1, "F", "U4", 2]


def test_fua_overtakes_what_no_flush_has_covered(log: Path) -> None:
    disk = Record(RamDisk(1 << 20), str(log))
    put(disk, 1, bytes(512))
    put(disk, 2, bytes(512), fua=True)
    run(disk.flush())
    assert kinds(log) == ["U2", 1, "F"]
    disk.close()


def test_fua_does_not_overtake_what_it_overwrites(log: Path) -> None:
    """Neither when a flush that covers it is under way: a replay would bring it back."""
    puppet = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: name == "flush")
    disk = Record(puppet, str(log))
    put(disk, 1, bytes(512))
    put(disk, 2, bytes(1024))
    flush = Stepped(disk.flush())
    put(disk, 3, bytes(512), fua=True)
    puppet.complete_all()
    while flush.calls:
        flush.work()
    assert kinds(log) == [2, "U3", 1, "F"]
    disk.close()


def test_the_times_say_what_was_under_way_together(log: Path) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk = Record(puppet, str(log))
    one, two = Stepped(disk.write(1, [view(512)])), Stepped(disk.write(2, [view(512)]))
    for held in reversed(puppet.held):
        held.complete()
    assert one.done
    assert two.done
    disk.close()
    text, times = log.read_bytes(), []
    for entry in (512, 1536):
        sector = struct.unpack_from("<Q", text, entry)
        times.append(sector + struct.unpack_from("<QQ", text, entry + 512 - 16))
    assert times == [(2, 2, 3), (1, 1, 4)]


def test_what_is_logged_is_what_was_written(log: Path) -> None:
    """A guest may change its buffer under way: what is logged is the copy that is written."""
    puppet = PuppetDisk(RamDisk(1 << 20))
    disk = Record(puppet, str(log))
    buffer = memoryview(bytearray(noise(512)))
    write = Stepped(disk.write(0, [buffer]))
    buffer[:] = bytes(512)
    puppet.complete_all()
    while write.calls:
        write.work()
    assert get(puppet.below, 0, 1) == noise(512)
    disk.close()
    assert read_log(log)[1][0].data == noise(512)


def test_what_failed_is_not_logged(log: Path) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: name != "read")
    disk = Record(puppet, str(log))
    for operation in (
        disk.write(0, [view(512)]),
        disk.write_zeroes(0, 1),
        disk.unmap(0, 1),
        disk.flush(),
    ):
        stepped = Stepped(operation)
        [held] = puppet.held
        with pytest.raises(IoError):
            held.fail(IoError(errno.EIO, "cable"))
        assert not stepped.calls
    disk.close()
    assert kinds(log) == []


def test_a_failed_flush_leaves_its_writes_to_the_next(log: Path) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: name == "flush")
    disk = Record(puppet, str(log))
    put(disk, 1, bytes(512))
    flush = Stepped(disk.flush())
    put(disk, 2, bytes(512))
    with pytest.raises(IoError):
        puppet.held[0].fail(IoError(errno.EIO, "cable"))
    assert not flush.done
    puppet.holds = lambda name, sector, count: False
    run(disk.flush())
    assert kinds(log) == [1, 2, "F"]
    disk.close()


def test_what_waits_for_a_flush_is_bounded(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_module, "MOST_HELD", 1024)
    disk = Record(RamDisk(1 << 20), str(log))
    for sector in range(5):
        put(disk, sector, bytes(512))
    assert kinds(log) == [0, 1, 2]
    disk.close()
    assert kinds(log) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_a_log_that_cannot_be_written_is_never_one_with_a_gap(
    call: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Record(RamDisk(1 << 20), str(log))
    put(disk, 1, noise(512), fua=True)

    def failing(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(NoSpace):
            put(disk, 2, noise(512), fua=True)
    for operation in (disk.flush(), disk.write(3, [view(512)]), disk.unmap(0, 1)):
        with pytest.raises(NoSpace, match="record to"):
            run(operation)
    disk.close()
    text = log.read_bytes()
    assert struct.unpack_from("<Q", text, 16) == (1,)


def test_a_reset_loses_no_entry(log: Path) -> None:
    disk = Record(RamDisk(1 << 20), str(log))
    flush = Stepped(disk.flush())
    assert flush.calls  # for the log: the disk is flushed
    put_second = Stepped(disk.write(5, [view(512)], fua=True))
    flush.coroutine.close()
    while put_second.calls:
        put_second.work()
    disk.close()
    assert "F" in kinds(log)
    assert "U5" in kinds(log)


def test_a_mark_must_fit(log: Path) -> None:
    disk = Record(RamDisk(1 << 20), str(log))
    run(disk.mark(b"x" * 456))
    with pytest.raises(InvalidInput):
        run(disk.mark(b"x" * 457))
    disk.close()
    assert [entry.data for entry in read_log(log)[1]] == [b"x" * 456, END]


def test_nothing_is_overwritten(log: Path) -> None:
    log.write_bytes(b"precious")
    with pytest.raises(DiskOpenError, match="File exists") as caught:
        open_disk(f"record:{log}:mem:1M")
    assert caught.value.hint
    assert log.read_bytes() == b"precious"
    disk = open_disk(f"record:{log}2:mem:1M")
    assert disk.details == {"log": f"{log}2"}
    disk.close()


Step = tuple[str, int, int]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "fua", "zero", "unmap", "flush"]),
            st.integers(0, 31),
            st.integers(0, 8),
        ),
        max_size=20,
    )
)
def test_a_replay_gives_the_disk(steps: list[Step]) -> None:
    """Of the whole log: what lies on the disk. Up to a flush: what lay there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log"
        disk = Record(RamDisk(32 * 512), str(path))
        at_flush: list[bytes] = []
        for seed, (name, sector, length) in enumerate(steps):
            count = min(length, 32 - sector)
            if name in ("write", "fua"):
                run(disk.flush())  # so that the order of the log is that of the steps
                at_flush.append(get(disk, 0, 32))
                put(disk, sector, noise(count * 512, seed), fua=name == "fua")
            elif name == "zero":
                run(disk.write_zeroes(sector, count))
            elif name == "unmap":
                run(disk.unmap(sector, count))
            else:
                run(disk.flush())
                at_flush.append(get(disk, 0, 32))
        final = get(disk, 0, 32)
        disk.close()
        replayed, seen = bytearray(32 * 512), []
        for entry in read_log(path)[1]:
            if entry.flags & FLUSH:
                seen.append(bytes(replayed))
            elif not entry.flags & MARK:
                data = bytes(entry.length * 512) if entry.flags & DISCARD else entry.data
                replayed[entry.sector * 512 : (entry.sector + entry.length) * 512] = data
        assert replayed == final
        assert seen == at_flush
