"""Lines for people and programs, and timelines."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest

from drivebay.lab.trace.formats import convert, format_of
from drivebay.lab.trace.lines import JsonLines, TextLines, latency
from drivebay.lab.trace.names import register_name, register_text
from drivebay.lab.trace.records import Kind, Source, TraceError, encode, read_records
from drivebay.lab.trace.story import Access, tell
from drivebay.lab.trace.timeline import Timeline
from drivebay.platform.engine import Engine
from tests.lab.trace import support
from tests.lab.trace.support import Recording

WALL = 1_700_000_000 * 10**9
MS = 10**6
NVME, DISK = {"name": "nvme", "dialect": "nvme"}, {"name": "nvme", "part": "1"}
READ = (2, 0, 7, 1, 0, 0, 0, 4096, 0, 8, 0, 7, 0, 0, 0)
HEAD: list[Any] = [
    (Kind.CLOCK, 0, 0, WALL),
    (Kind.SOURCE, 0, 1, NVME),
    (Kind.SOURCE, 0, 2, DISK),
]
STORY: list[Any] = [
    *HEAD,
    (Kind.WRITE, 1 * MS, 1, "BAR0", 0x1008, 4, 1),
    (Kind.BEGAN, 2 * MS, 1, 1, 7, READ),
    (Kind.BEGAN, 3 * MS, 1, 1, 8, READ),
    (Kind.DISK, 5 * MS, 2, 4 * MS, "read", 8, 8, "", b"\1\2"),
    (Kind.ENDED, 6 * MS, 1, 1, 7, (0, 0)),
    (Kind.INTERRUPT, 7 * MS, 1, "MSIX 1", None),
    (Kind.INTERRUPT, 8 * MS, 1, "INTx", True),
    (Kind.LOST, 9 * MS, 0, 3),
    (Kind.BEGAN, 10 * MS, 1, 1, 9, READ),
    (Kind.ENDED, 11 * MS, 1, 1, 9, (0, 0x4281)),
]


def told(make: Any, story: list[Any] | None = None) -> str:
    stream = io.BytesIO()
    records = read_records(io.BytesIO(encode(STORY if story is None else story)))
    tell(records, make(stream))
    return stream.getvalue().decode()


def test_lines() -> None:
    lines = [line.split(" ", 1) for line in told(TextLines).splitlines()]
    assert [text for _, text in lines] == [
        "nvme write BAR0 SQ1TDBL 0x00000001",
        "nvme/1 disk read 8+8: done, 1.0 ms",
        "nvme READ queue 1 nsid 1 lba 8+8: SUCCESS, 4.0 ms",
        "nvme interrupt MSIX 1",
        "nvme interrupt INTx up",
        "3 records were lost: the trace could not keep up",
        "nvme READ queue 1 nsid 1 lba 8+8: UNRECOVERED_READ_ERROR, 1.0 ms",
        "nvme READ queue 1 nsid 1 lba 8+8: never ended",
    ]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6}", clock) for clock, _ in lines)
    assert [clock[8:] for clock, _ in lines][:3] == [".001000", ".004000", ".002000"]


def test_json_lines() -> None:
    lines = [json.loads(line) for line in told(JsonLines).splitlines()]
    events = [line["event"] for line in lines]
    assert events == [
        *("write", "disk", "command", "interrupt", "interrupt", "lost", "command", "command")
    ]
    assert lines[2] == {
        "event": "command",
        "time": 1_700_000_000.002,
        "controller": "nvme",
        "command": "READ",
        "queue": 1,
        "tag": 7,
        "nsid": 1,
        "lba": 8,
        "count": 8,
        "direction": "read",
        "status": "SUCCESS",
        "ok": True,
        "us": 4000.0,
    }
    assert (lines[1]["disk"], lines[1]["data"], lines[1]["us"]) == ("nvme/1", "0102", 1000.0)
    assert (lines[-1]["status"], lines[-1]["us"]) == (None, None)


def events(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(text.rstrip().rstrip(",") + "]")
    return found


def test_timeline() -> None:
    """Commands that are under way together are on threads of their own."""
    found = events(told(Timeline))
    names = {
        (event["pid"], event.get("tid", 0)): event["args"]["name"]
        for event in found
        if event["ph"] == "M"
    }
    assert set(names.values()) == {
        *("nvme", "registers", "queue 1", "queue 1 +1", "disk 1"),
        *("interrupt MSIX 1", "interrupt INTx"),
    }
    commands = {
        event["args"]["tag"]: (names[event["pid"], event["tid"]], event["ts"], event["dur"])
        for event in found
        if event["name"] == "READ"
    }
    assert commands == {
        7: ("queue 1", 2000.0, 4000.0),
        8: ("queue 1 +1", 3000.0, 0.0),
        9: ("queue 1", 10000.0, 1000.0),
    }
    [disk] = [event for event in found if event["name"] == "read"]
    assert (disk["ts"], disk["dur"], disk["args"]["count"]) == (4000.0, 1000.0, 8)
    [access] = [event for event in found if "SQ1TDBL" in event["name"]]
    assert access["ph"] == "i"


def test_timelines_follow_each_other() -> None:
    """What is appended is more of the same array."""
    stream = io.BytesIO()
    for _ in range(2):
        records = read_records(io.BytesIO(encode(STORY)))
        convert(records, stream, ".json")
    found = events(stream.getvalue().decode())
    assert len([event for event in found if event["name"] == "READ"]) == 6


def test_every_controller_can_be_told_of(engine: Engine) -> None:
    recording = Recording()
    support.floppy(engine, recording)
    support.scsi(engine, recording)
    recording.recorder.close()
    text = recording.told(TextLines).decode()
    assert "fdc VERSION drive 0: OK" in text
    assert "scsi READ_10 lun 0 lba 9+1: GOOD" in text
    assert len(events(recording.told(Timeline).decode())) > 8


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [(0, "0.0 us"), (41_300, "41.3 us"), (1_500_000, "1.5 ms"), (2_000_000_000, "2.00 s")],
)
def test_latency(nanoseconds: int, text: str) -> None:
    assert latency(nanoseconds) == text


def test_formats() -> None:
    for path, ending in {
        "-": ".txt",
        "a.b/c.txt": ".txt",
        "a.jsonl": ".jsonl",
        "a.perfetto.json": ".json",
        "a.pcapng": ".pcapng",
        "a.dbtrace": ".dbtrace",
    }.items():
        assert format_of(path) == ending
    with pytest.raises(TraceError, match="its name does not say"):
        format_of("a.pcap")
    with pytest.raises(TraceError, match="cannot be made"):
        convert([], io.BytesIO(), ".dbtrace")


# -- registers -----------------------------------------------------------------------------------


def access(
    kind: str, place: str, offset: int, value: int = 0, width: int = 4, *, write: bool = False
) -> Access:
    return Access(Source("x", kind), 0, write, place, offset, width, value)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (access("nvme", "BAR0", 0x14), "BAR0 CC"),
        (access("nvme", "BAR0", 0x1000), "BAR0 SQ0TDBL"),
        (access("nvme", "BAR0", 0x100C), "BAR0 CQ1HDBL"),
        (access("nvme", "BAR0", 0x2C), "BAR0 ASQ+4"),
        (access("nvme", "BAR4", 0x1C), "BAR4 vector 1 control"),
        (access("nvme", "config", 4, width=2), "config Command"),
        (access("nvme", "config", 0x90), "config+0x90"),
        (access("ahci", "BAR5", 4), "BAR5 GHC"),
        (access("ahci", "BAR5", 0x1B8), "BAR5 P1CI"),
        (access("ahci", "BAR5", 0x80), "BAR5+0x80"),
        (access("ide", "BAR0", 7, width=1), "BAR0 Status"),
        (access("ide", "BAR0", 7, width=1, write=True), "BAR0 Command"),
        (access("ide", "BAR3", 2, width=1, write=True), "BAR3 DeviceControl"),
        (access("ide", "BAR4", 8, width=1), "BAR4 secondary Command"),
        (access("virtio-blk-pci", "BAR0", 0x14, width=1), "BAR0 device_status"),
        (access("new", "BAR0", 0x14), "BAR0+0x14"),
    ],
)
def test_registers_have_names(where: Access, name: str) -> None:
    assert register_name(where) == name


def test_values_have_fields() -> None:
    """Where all of a register was read or written."""
    whole = access("nvme", "BAR0", 0x14, 0x00460001)
    assert register_text(whole).startswith("BAR0 CC 0x00460001 CRIME=0 IOCQES=0x4 IOSQES=0x6")
    assert register_text(whole).endswith("EN=1")
    part = access("nvme", "BAR0", 0x14, 1, width=1)
    assert register_text(part) == "BAR0 CC 0x01"
    status = access("ide", "BAR0", 7, 0x50, width=1)
    assert register_text(status).startswith("BAR0 Status 0x50 BSY=0 DRDY=1")
