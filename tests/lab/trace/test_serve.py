"""``--trace`` of a server, and a trace that is begun and ended while it runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.errors import CliError
from drivebay.cli.main import main
from drivebay.cli.recording import replay
from drivebay.cli.trace import TraceWish, parse_trace, trace_wish
from drivebay.hosts.control.client import Control, ControlError
from drivebay.lab.replay import Recording
from drivebay.lab.trace.records import Kind, encode, read_records
from drivebay.testing.vfio_user import Monitor
from drivebay.testing.vhost_user import FrontEnd

DATA = bytes(range(256)) * 2


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def commands(path: Path) -> list[tuple[str, Any, str]]:
    return [
        (line["command"], line.get("lba"), line["status"])
        for line in lines(path)
        if line["event"] == "command"
    ]


def test_from_the_start(tmp_path: Path) -> None:
    """And over the end of a data plane: the next one appends."""
    path = tmp_path / "a.jsonl"
    spec = f"file:{tmp_path}/x.img;create=1M,socket={tmp_path}/x.sock"
    with Backend(["--virtio-blk", spec, "--trace", f"{path},all,data=16"]) as backend:
        with FrontEnd(backend.controllers[0]["socket"]) as guest:
            guest.write(8, DATA)
            assert guest.read(8, 512) == DATA
        os.kill(backend.pid, signal.SIGKILL)
        backend.read_ready()
        with FrontEnd(backend.controllers[0]["socket"]) as guest:
            guest.flush()
    assert commands(path)[-1] == ("FLUSH", None, "OK")
    if ("OUT", 8, "OK") in commands(path):  # else it was killed before it had written that
        events = {line["event"] for line in lines(path)}
        assert events == {"command", "disk", "interrupt"}
        [write] = [line for line in lines(path) if line.get("operation") == "write"]
        assert (write["disk"], write["sector"], write["data"]) == ("vda", 8, DATA[:16].hex())


def test_while_it_runs(tmp_path: Path) -> None:
    native, text = tmp_path / "a.dbtrace", tmp_path / "a.jsonl"
    control = tmp_path / "c.sock"
    with (
        Backend(["--virtio-blk", "mem:1M", "--control", str(control)]) as backend,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
        Control(str(control)) as client,
    ):
        guest.write(0, DATA)
        client.start_trace(f"{native},disk")
        guest.write(8, DATA)
        with pytest.raises(ControlError, match="already"):
            client.start_trace(str(text))
        stopped = client.stop_trace()
        assert (stopped.path, stopped.lost) == (str(native), 0)
        guest.write(16, DATA)
        with pytest.raises(ControlError, match="no trace"):
            client.stop_trace()
        with pytest.raises(ControlError, match="does not say"):
            client.start_trace(f"{tmp_path}/a.tracing")
        client.start_trace(str(text))
        guest.write(24, DATA)
        client.stop_trace()
        # A disk that is traced is what it was for everything else.
        described = client.tree().controllers[0].disks[0].disk
        assert described is not None and described["kind"] == "layered"
        client.snapshot("vda", "memdiff")
        client.start_trace(str(text))
        guest.write(32, DATA)
        client.stop_trace()
    assert commands(text) == [("OUT", 24, "OK"), ("OUT", 32, "OK")]
    assert main(["lab", "trace", str(native), "--to", str(tmp_path / "b.jsonl")]) == 0
    assert commands(tmp_path / "b.jsonl") == [("OUT", 8, "OK")]
    disk = [line for line in lines(tmp_path / "b.jsonl") if line["event"] == "disk"]
    assert [(line["operation"], line["sector"]) for line in disk] == [("write", 8)]


def test_what_is_recorded_is_traced_as_well(tmp_path: Path) -> None:
    trace, recording = tmp_path / "a.jsonl", tmp_path / "a.dbreplay"
    serve = ["--ide", "mem:1M", "--trace", f"{trace},disk", "--record", str(recording)]
    with Backend(serve) as backend, Monitor(backend.controllers[0]["socket"]) as guest:
        for register, value in enumerate((1, 8, 0, 0, 0xE0, 0x20), 2):  # READ SECTORS
            guest.write(0, register, 1, value)
        while guest.read(0, 7, 1) & 0x88 != 0x08:
            pass
        assert [guest.read(0, 0, 2) for _ in range(256)] == [0] * 256
    assert commands(trace) == [("READ_SECTORS", 8, "OK")]
    [disk] = [line for line in lines(trace) if line["event"] == "disk"]
    assert (disk["disk"], disk["operation"], disk["sector"]) == ("ide/p0", "read", 8)
    assert replay(Recording(recording)) > 10


def test_disks_that_come_and_go(tmp_path: Path) -> None:
    """A disk that is added is traced, and blocks are as long as its namespace has them."""
    path, control = tmp_path / "a.dbtrace", tmp_path / "c.sock"
    serve = ["--nvme", "mem:1M,block=4096", "--trace", f"{path},disk", "--control", str(control)]
    with Backend(serve), Control(str(control)) as client:
        client.add("nvme", "mem:1M,nsid=2")
        client.remove("nvme/1")
        assert client.tree().controllers[0].disks[0].name == "nvme/2"
        client.stop_trace()
    sources = [record[3] for record in read_records(path.open("rb")) if record[0] == Kind.SOURCE]
    assert [(each["part"], each["block"]) for each in sources if each["part"]] == [
        *(("1", 4096), ("2", 512)),
    ]


def test_lines_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        Backend(["--virtio-blk", "mem:1M", "--trace", "-"]) as backend,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
    ):
        guest.write(0, DATA)
    assert "vda OUT queue 0 lba 0+1: OK" in capfd.readouterr().err


def test_what_the_option_says() -> None:
    for text, wish in {
        "a.txt": TraceWish("a.txt"),
        "-,disk": TraceWish("-", disk=True),
        "a.json,data=4K": TraceWish("a.json", disk=True, data=4096),
        "a.json,all": TraceWish("a.json", disk=True, registers=True, interrupts=True),
        "a.json,registers,interrupts": TraceWish("a.json", registers=True, interrupts=True),
    }.items():
        assert parse_trace(text) == wish
    assert trace_wish([("nvme", "mem:1M")]) is None


@pytest.mark.parametrize(
    "text", ["a.pcap", "a.txt,colour", "a.txt,data=2M", "a.txt,data=", "a.txt,data=1x"]
)
def test_options_that_make_no_sense(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("serve", "boot"):
        assert main([command, "--virtio-blk", "mem:1M", "--trace", text]) == 1
        assert capsys.readouterr().err.startswith("drivebay: error: ")


def test_one_trace_at_a_time() -> None:
    with pytest.raises(CliError, match="two traces"):
        trace_wish([("trace", "a.txt"), ("trace", "b.txt")])


def test_mistakes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no.dbtrace"
    for words in (
        [str(path)],
        [str(tmp_path)],
        [__file__],
        [__file__, "--to", "x.wrong"],
        [__file__, "--to", str(tmp_path / "nowhere" / "x.txt")],
    ):
        assert main(["lab", "trace", *words]) == 1
        error = capsys.readouterr().err
        assert error.startswith("drivebay: error: ") and "Traceback" not in error


def test_machines_without_sockets_have_no_traces(capsys: pytest.CaptureFixture[str]) -> None:
    disk = ["--ide", "mem:1M", "--trace", "a.txt"]
    for words in (
        ["boot", "--host", "unicorn", *disk],
        ["qtest", "--machine", "pc", "--qtest", "/nowhere", *disk],
    ):
        assert main(words) == 1
        assert "--trace is for controllers on a socket" in capsys.readouterr().err


def test_a_full_disk(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "a.dbtrace"
    trace.write_bytes(encode([(Kind.CLOCK, 0, 0, 0)] + [(Kind.LOST, 0, 0, 1)] * 9))
    target = tmp_path / "full.txt"
    target.symlink_to("/dev/full")
    assert main(["lab", "trace", str(trace), "--to", str(target)]) == 1
    assert "No space left on device" in capsys.readouterr().err
