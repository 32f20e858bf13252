"""``drivebay lab powercut`` on logs that are there; no guest."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.main import main
from drivebay.disk.filters.record import Record
from drivebay.disk.spec import open_disk
from drivebay.lab import powercut_check
from drivebay.suspend import run
from tests.disk.support import put

BASE, SIZE = "file:before.img", 64 << 10
# What says that the data is there, and the data: it must not come before it.
CAREFUL = "! head -c 1 {image} | grep -q C || tail -c +4097 {image} | head -c 1 | grep -q D"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("before.img").write_bytes(b"before".ljust(SIZE, b"."))


def record(careful: bool) -> None:
    """Write data, then what says that it is there; and other things beside it."""
    disk = Record(open_disk(f"memdiff:{BASE}"), "writes.log")
    for number in range(3):
        put(disk, 32 + 8 * number, bytes([number + 65]) * 1024)
    put(disk, 8, b"D" * 512)
    if careful:
        run(disk.flush())
    run(disk.mark(b"data "))
    put(disk, 0, b"C" * 512)
    run(disk.mark(b"committed"))
    run(disk.flush())
    disk.close()


def powercut(line: str) -> int:
    return main(["lab", "powercut", *shlex.split(line)])


def as_json(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    status = powercut(f"{line} --json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return status, found


def test_a_careless_writer_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    record(careful=False)
    line = f"writes.log --disk {BASE} --check {shlex.quote(CAREFUL)} -n 60"
    assert powercut(line) == 1
    out = capsys.readouterr().out
    assert "smallest: 13:5\n" in out
    assert "1 left:\n    write 5: 512 bytes at 0x0\n  | status 1" in out
    assert "kept in powercut-failed; again: drivebay lab powercut writes.log" in out
    kept = Path("powercut-failed", "smallest.img").read_bytes()
    assert kept == b"C" * 512 + b"." * (SIZE - 512)
    report = json.loads(Path("powercut-failed", "report.json").read_text())
    assert report["smallest"]["image"] == "13:5"
    assert Path("powercut-failed", "said").read_bytes() == b"data committed"
    status, again = as_json(f"{line} --keep powercut-failed", capsys)
    assert (status, again["kept"]) == (1, "powercut-failed-2")
    assert again["failed"] == report["failed"]


def test_a_careful_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    record(careful=True)
    line = f"writes.log --disk {BASE} --check {shlex.quote(CAREFUL)} --tear 0"
    assert as_json(line, capsys) == (
        0,
        {"images": 18, "moments": 2, "complete": True, "seed": 0, "failed": [], "smallest": None}
        | {"seconds": pytest.approx(0, abs=600), "tries": 0},
    )
    assert not Path("powercut-failed").exists()


def test_one_image_again(capsys: pytest.CaptureFixture[str]) -> None:
    record(careful=False)
    line = f"writes.log --disk {BASE} --image 13:5"
    status, found = as_json(f"{line} --check {shlex.quote(CAREFUL)}", capsys)
    assert (status, found["images"], found["failed"]) == (1, 1, ["13:5"])
    assert "kept" not in found
    assert powercut(f"{line} -o left.img") == 0
    assert Path("left.img").read_bytes() == b"C" * 512 + b"." * (SIZE - 512)
    assert Path("left.img").stat().st_blocks * 512 <= SIZE


def test_when_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    record(careful=False)
    line = f"writes.log --disk {BASE} --check {shlex.quote(CAREFUL)} --tear 0"
    for when in ("--at write=3", "--at mark=data", "--at write=1 --at write=4"):
        assert as_json(f"{line} {when}", capsys)[0] == 0
    status, found = as_json(f"{line} --at mark=commit", capsys)
    assert (status, found["moments"]) == (1, 1)
    status, found = as_json(f"{line} --after mark=committed", capsys)
    assert (status, found["moments"]) == (1, 1)


def test_what_was_said_is_there_to_be_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """What was said to be committed must be there: it was said too early."""
    record(careful=True)
    check = "! grep -q committed {said} || head -c 1 {image} | grep -q C"
    line = f"writes.log --disk {BASE} --tear 0 --check {shlex.quote(check)}"
    status, found = as_json(line, capsys)
    assert (status, found["smallest"]["left"]) == (1, [])
    assert found["smallest"]["unstable"] == 1


def test_a_check_by_nbd(capsys: pytest.CaptureFixture[str]) -> None:
    """It may write: beside what is kept."""
    record(careful=False)
    python = "import sys; from drivebay.cli.main import main; sys.exit(main(sys.argv[1:]))"
    check = f"{sys.executable} -c {shlex.quote(python)} disk compare {{nbd}} left.img"
    line = f"writes.log --disk {BASE} --image 13:1,5"
    assert powercut(f"{line} -o left.img") == 0
    assert powercut(f"{line} --check {shlex.quote(check)}") == 0
    assert powercut(f"writes.log --disk {BASE} --image 13:5 --check {shlex.quote(check)}") == 1
    assert "differ from byte 16384 on" in capsys.readouterr().out


def test_a_check_that_takes_too_long_has_failed(capsys: pytest.CaptureFixture[str]) -> None:
    record(careful=False)
    line = f"writes.log --disk {BASE} --image 13: --timeout 0.2 --check 'sleep 60'"
    assert powercut(line) == 1
    assert "took more than 0.2 s" in capsys.readouterr().out


def test_what_a_check_says_is_kept_from_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(powercut_check, "SAID", 10)
    record(careful=False)
    line = f"writes.log --disk {BASE} --image 13: --check 'echo 0123456789 {{image}}; exit 3'"
    status, found = as_json(line, capsys)
    assert (status, found["smallest"]["said"]) == (1, "status 3: 6789 image")


def test_a_log_that_is_still_written_is_read_up_to_its_last_flush() -> None:
    disk = Record(open_disk(f"memdiff:{BASE}"), "writes.log")
    put(disk, 0, b"C" * 512)
    run(disk.flush())
    put(disk, 8, b"D" * 512)
    line = f"writes.log --disk {BASE} --check 'head -c 1 {{image}} | grep -q C'"
    assert powercut(f"{line} --image 3:") == 1
    assert powercut(f"{line} --image 4:") == 0
    disk.close()


MISTAKES = {
    f"--disk {BASE} --check true": "what was written?",
    f"writes.log --disk {BASE} --run true --check true": "what was written?",
    f"writes.log --disk {BASE} --log x --check true": "--log goes with --run",
    f"writes.log --disk {BASE} -o x --check true": "-o goes with --image",
    f"writes.log --disk {BASE}": "nothing to check with",
    f"writes.log --disk {BASE} --check true --boot true": "two checks",
    f"nosuch.log --disk {BASE} --check true": "nosuch.log: No such file",
    f"before.img --disk {BASE} --check true": "no log of writes",
    "writes.log --disk nosuch.img --check true": "nosuch.img: No such file",
    "writes.log --disk mem:1K --check true": "17408 bytes are changed of a disk of 1024",
    "writes.log --check true": "Missing option '--disk'",
    f"writes.log --disk {BASE} --check nosuchcommand": "the check cannot be run: ",
    f"writes.log --disk {BASE} --check true --at write=99": "write=99: that never was",
    f"writes.log --disk {BASE} --check true --after mark=x": "mark=x: that never was",
    f"writes.log --disk {BASE} --check true --image 99:": "99:: no moment of this history",
    f"writes.log --disk {BASE} --check true --image 13:99": "change 99 is stable then",
    f"writes.log --disk {BASE} --image 13: -o before.img": "before.img: File exists",
    f"writes.log --disk {BASE} --check true -m 12X": "character 3 is 'X'",
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.items())
def test_a_mistake_is_told_in_a_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record(careful=False)
    assert powercut(line) == 1
    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert first.startswith("drivebay: error: ")
    assert message in first
    assert len(rest) <= 1
    assert out == ""
    assert Path("before.img").read_bytes().startswith(b"before")
