"""`drivebay lab compare`, from its arguments to its files."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from drivebay.cli.main import main
from drivebay.lab.compare import CONTENDERS

from .support import made_up

QUICK = ["--seconds", "0.05", "--rounds", "1"]


def test_no_vm_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, drawing, kept = tmp_path / "c.html", tmp_path / "c.svg", tmp_path / "c.json"
    words = ["lab", "compare", "--no-vm", "--disk", "mem:2M", *QUICK]
    assert main([*words, "--json", "--html", str(page), "--svg", str(drawing)]) == 0
    output, steps = capsys.readouterr()
    assert "warming up" in steps
    found = json.loads(output)
    assert {row["contender"] for row in found["rows"]} == {each.name for each in CONTENDERS}
    ET.fromstring(page.read_text().partition("\n")[2])
    ET.fromstring(drawing.read_text())
    kept.write_text(output)
    assert main(["lab", "compare", "--load", str(kept)]) == 0
    table, steps = capsys.readouterr()
    assert "enlightened INT13" in table
    assert steps == ""  # nothing is measured


def test_cache_modes_are_compared_by_writes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lab", "compare", "--no-vm", "--disk", "mem:2M", "--only", "nvme,ahci", *QUICK]
    words += ["--cache", "writeback", "--cache", "writethrough", "--overwrite", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    writes = [
        (row["contender"], row["cache"]) for row in rows if row["job"].startswith("randwrite")
    ]
    modes = ("writeback", "writethrough")
    assert sorted(writes) == [(name, mode) for name in ("ahci", "nvme") for mode in modes]
    assert sum(row["job"] == "read-1m" for row in rows) == 2  # reads are done once


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "nvme,scsi"], "there is no controller 'scsi'"),
        (["--disk", "mem:1M", "--cache", "writeback"], "writes to mem:1M"),
        (["--html", "/nowhere/c.html"], "/nowhere/c.html: nothing can be written there"),
        (["--no-vm", "--disk", "mem:x"], "mem:x"),
        (["--no-vm", "--disk", "file:/nowhere/disk"], "/nowhere/disk"),
        (["--no-vm", "--disk", "mem:64K"], "mem:64K: 65536 bytes"),
        (["--no-vm", "--disk", "mem:1M;sector=8192"], "sectors of 8192 bytes"),
        (["--load", __file__], "test_command.py: Expected `object`"),
    ],
)
def test_mistakes_are_told_in_a_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "compare", *words]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert told in lines[0]
    assert lines[0].startswith("drivebay: error: ")


def test_without_a_painter_no_run_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["lab", "compare", "--no-vm", "--png", str(tmp_path / "c.png")]) == 1
    said = capsys.readouterr().err
    assert "rsvg-convert" in said
    assert "hint: install librsvg2-bin" in said


def test_a_rerun_is_drawn_without_measuring(tmp_path: Path) -> None:
    kept, page = tmp_path / "c.json", tmp_path / "c.html"
    kept.write_bytes(made_up().to_json())
    assert main(["lab", "compare", "--load", str(kept), "--html", str(page), "--json"]) == 0
    assert "What a register access costs" in page.read_text()
