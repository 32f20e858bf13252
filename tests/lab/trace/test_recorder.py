"""What is recorded comes back, whatever happens to whoever writes it."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.ata.registers import Opcode
from drivebay.ata.taskfile import TaskFile
from drivebay.controllers.ahci.registers import GHC
from drivebay.lab.trace.formats import convert
from drivebay.lab.trace.lines import TextLines
from drivebay.lab.trace.recorder import BATCH, MOST_WAITING, Recorder, RegisterTap
from drivebay.lab.trace.records import Batch, Kind, Source, TraceError, encode, read_records
from drivebay.lab.trace.sinks import FileSink
from drivebay.lab.trace.story import Audience, Command, tell
from drivebay.platform.engine import Engine
from drivebay.scsi.status import Status
from drivebay.scsi.target import Outcome
from tests.lab.trace import support
from tests.lab.trace.support import Kept, Recording
from tests.virtio.bench import MakeBench


class Heard(Audience):
    """Keeps what it is told of commands."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.left: list[Command] = []
        self.lost_count = 0

    def ended(self, command: Command) -> None:
        self.commands.append(command)

    def given_up(self, command: Command) -> None:
        self.left.append(command)

    def lost(self, time: int, count: int) -> None:
        self.lost_count += count


def heard(content: bytes) -> Heard:
    audience = Heard()
    tell(read_records(io.BytesIO(content)), audience)
    return audience


def names(recording: Recording) -> list[tuple[str, str]]:
    found = heard(recording.content)
    assert not found.left
    ends = [each.end for each in found.commands]
    assert all(ends)
    return [(each.subject.command, str(each.end)) for each in found.commands]


def test_nvme(engine: Engine) -> None:
    recording = Recording()
    support.nvme(engine, recording)
    assert names(recording)[-4:] == [
        ("WRITE", "SUCCESS"),
        ("READ", "SUCCESS"),
        ("READ", "LBA_OUT_OF_RANGE"),
        ("FLUSH", "SUCCESS"),
    ]


def test_scsi(engine: Engine) -> None:
    recording = Recording()
    support.scsi(engine, recording)
    assert names(recording) == [
        ("INQUIRY", "GOOD"),
        ("READ_10", "GOOD"),
        ("READ_10", "LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE"),
        ("WRITE_16", "GOOD"),
        ("SYNCHRONIZE_CACHE_10", "GOOD"),
        ("REPORT_LUNS", "GOOD"),
    ]


def test_ata(engine: Engine) -> None:
    recording = Recording()
    support.ata(engine, recording)
    found = names(recording)
    assert found.count(("READ_FPDMA_QUEUED", "OK")) == 2
    assert found[-1] == ("READ_DMA_EXT", "IDNF+ABRT")


def test_virtio(bench: MakeBench) -> None:
    recording = Recording()
    support.virtio(bench, recording)
    assert ("IN", "IOERR") in names(recording)
    assert ("OPCODE-0x63", "UNSUPP") in names(recording)


def test_floppy(engine: Engine) -> None:
    recording = Recording()
    support.floppy(engine, recording)
    assert names(recording) == [("VERSION", "OK"), ("SENSE_INTERRUPT_STATUS", "INVALID")]


ROWS = st.tuples(*[st.integers(0, (1 << 64) - 1)] * 15)


@given(st.lists(st.tuples(st.integers(0, 3), ROWS, st.integers(0, 1 << 32)), max_size=40))
def test_everything_comes_back(commands: list[tuple[int, Any, int]]) -> None:
    recording = Recording()
    tap = recording.recorder.tap(Source("a", "nvme"))
    for number, (queue, row, dw0) in enumerate(commands):
        tap.began(queue, number, row)
        tap.ended(queue, number, (dw0, 0))
    found = heard(recording.content).commands
    assert [(each.queue, each.native, each.outcome) for each in found] == [
        (queue, row, (dw0, 0)) for queue, row, dw0 in commands
    ]
    assert all(each.ended is not None and each.ended >= each.began for each in found)


def test_commands_of_ata_and_scsi_come_back_as_they_were() -> None:
    taskfile = TaskFile()
    taskfile.command, taskfile.lba48 = Opcode.READ_DMA_EXT, 0x123456789ABC
    recording = Recording()
    tap = recording.recorder.tap(Source("a", "ata", "1"))
    tap.began(0, 32, taskfile)
    tap.ended(0, 32, (0x50, 0))
    tap = recording.recorder.tap(Source("b", "scsi"))
    outcome = Outcome(Status.CHECK_CONDITION, b"sense", transferred=7)
    tap.began(5, 1, b"\x12\0\0\0\x60\0")
    tap.ended(5, 1, outcome)
    ata, scsi = heard(recording.content).commands
    assert ata.native.save() == taskfile.save()
    assert (ata.source.part, ata.place, scsi.place) == ("1", "1", "5")
    assert (scsi.native, scsi.outcome) == (b"\x12\0\0\0\x60\0", outcome)


def test_a_command_that_is_given_up() -> None:
    """A tag that begins twice had a reset between; one that never ends is told of, too."""
    recording = Recording()
    tap = recording.recorder.tap(Source("a", "virtio"))
    tap.began(0, 1, (0, 0, 512))
    tap.began(0, 1, (0, 8, 512))
    tap.ended(0, 1, 0)
    tap.began(0, 2, (0, 16, 512))
    tap.ended(0, 9, 0)  # began before the trace did
    found = heard(recording.content)
    assert [each.native[1] for each in found.left] == [0, 16]
    assert [each.native[1] for each in found.commands] == [8]


class Slow(Kept):
    """A sink that takes nothing until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may = threading.Event()
        self.asked = threading.Event()

    def write(self, batch: bytes) -> None:
        self.asked.set()
        self.may.wait()
        super().write(batch)


def test_what_nobody_writes_is_counted_and_not_kept() -> None:
    sink = Slow()
    recorder = Recorder(sink)
    tap = recorder.tap(Source("a", "scsi"))
    assert sink.asked.wait(10)
    count, cdb = 0, bytes(MOST_WAITING >> 6)
    while not recorder.lost:
        tap.began(0, 1, cdb)
        tap.ended(0, 1, Outcome(Status.GOOD))
        count += 1
    assert count < 64 + 2 * BATCH
    lost = recorder.lost
    sink.may.set()
    for _ in range(BATCH):
        tap.began(0, 1, cdb[:6])
        tap.ended(0, 1, Outcome(Status.GOOD))
    recorder.close()
    assert sink.closed
    found = heard(sink.content)
    assert found.lost_count == recorder.lost >= lost
    assert found.commands


class Full(Kept):
    def write(self, batch: bytes) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_trace_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    sink = Full()
    recorder = Recorder(sink)
    tap = recorder.tap(Source("a", "virtio"))
    for tag in range(4 * BATCH):
        tap.began(0, tag, (0, 0, 512))
        tap.ended(0, tag, 0)
    recorder.close()
    assert sink.closed
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "No space left" in caplog.text
    caplog.clear()


def test_what_cannot_be_recorded_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    sink = Kept()
    recorder = Recorder(sink)
    tap = recorder.tap(Source("a", "virtio"))
    tap.began(0, 1, (0, 0, 512))
    tap.ended(0, 1, object())
    recorder.close()
    assert "leaves something out" in caplog.text
    caplog.clear()
    assert sink.closed
    found = heard(sink.content)
    assert (found.lost_count, len(found.left)) == (1, 1)


def test_registers_are_numbers() -> None:
    """Devices give values of the registers' own types."""
    recording = Recording()
    tap = RegisterTap(recording.recorder, Source("a", "ahci"))
    tap.access("BAR5", False, 4, 4, GHC(0x80000000))
    tap.interrupt("MSI 0", None)
    assert b"BAR5 GHC 0x80000000 AE=1" in recording.told(TextLines)


# -- files ---------------------------------------------------------------------------------------


def written(path: Path, *sectors: int) -> None:
    recorder = Recorder(FileSink(str(path)))
    tap = recorder.tap(Source("vda", "virtio"))
    for sector in sectors:
        tap.began(0, 1, (0, sector, 512))
        tap.ended(0, 1, 0)
    recorder.close()


def sectors(path: Path) -> list[int]:
    return [each.native[1] for each in heard(path.read_bytes()).commands]


def test_a_server_that_is_started_again_appends(tmp_path: Path) -> None:
    path = tmp_path / "a.dbtrace"
    written(path, 1, 2)
    written(path, 3)
    assert sectors(path) == [1, 2, 3]


def test_one_that_was_killed_leaves_no_half_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.dbtrace"
    written(path, 1)
    whole = path.read_bytes()
    for size in (len(whole) + 5, len(whole) + Batch.size + 3):
        path.write_bytes((whole + encode([(Kind.LOST, 0, 0, 1)] * 9))[:size])
        assert sectors(path) == [1]
        written(path, 2)
        assert sectors(path) == [1, 2]


def test_what_is_no_trace_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.dbtrace"
    path.write_bytes(b"something else that is dear")
    with pytest.raises(TraceError, match="is no trace"):
        FileSink(str(path))
    assert path.read_bytes() == b"something else that is dear"
    with pytest.raises(TraceError, match="No such file"):
        FileSink(str(tmp_path / "nowhere" / "a.dbtrace"))


@given(st.binary(max_size=200))
def test_any_bytes(content: bytes) -> None:
    """They are a trace, or refused."""
    with contextlib.suppress(TraceError):
        heard(content)


RECORDS = st.lists(
    st.one_of(
        st.lists(st.integers(0, 9) | st.text(max_size=3) | st.binary(max_size=3), max_size=8),
        st.tuples(st.sampled_from(Kind).map(int), st.integers(0, 99), st.just(1), st.just([1])),
        st.builds(
            lambda kind, rest: [int(kind), 0, 1, *rest],
            st.sampled_from(Kind),
            st.lists(st.integers(0, 9) | st.just([1] * 10) | st.binary(max_size=16), max_size=6),
        ),
    ),
    max_size=8,
)
NUMBERS = st.integers(0, (1 << 64) - 1)
PLAIN = st.one_of(NUMBERS, st.binary(max_size=20), st.lists(NUMBERS, max_size=16))
ENDS = st.one_of(PLAIN, st.fixed_dictionaries({"status": NUMBERS, "sense": st.binary(max_size=20)}))
START = [(Kind.CLOCK, 0, 0, 0)]


DIALECTS = st.sampled_from(["nvme", "ata", "scsi", "virtio", "floppy", "what"])


def told_in_every_format(dialect: str, records: list[Any]) -> None:
    """It is something, or refused."""
    source = (Kind.SOURCE, 0, 1, {"name": "a", "dialect": dialect})
    content = encode([*START, source, *records])
    for ending in (".txt", ".jsonl", ".json", ".pcapng"):
        with contextlib.suppress(TraceError):
            convert(read_records(io.BytesIO(content)), io.BytesIO(), ending)


@given(DIALECTS, st.integers(0, 1 << 32), st.integers(0, 1 << 63), PLAIN, ENDS)
def test_any_commands(dialect: str, queue: int, tag: int, command: Any, outcome: Any) -> None:
    began = (Kind.BEGAN, 1, 1, queue, tag, command)
    told_in_every_format(dialect, [began, (Kind.ENDED, 2, 1, queue, tag, outcome)])


@given(DIALECTS, RECORDS)
def test_any_records(dialect: str, records: list[Any]) -> None:
    told_in_every_format(dialect, records)
