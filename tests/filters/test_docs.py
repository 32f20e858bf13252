"""docs/filters.md says what is true. Its Python is run by tests/test_docs.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from drivebay.disk.kinds import filters
from drivebay.disk.spec import SpecError, open_disk, parse
from tests.disk.support import get

DOCS = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()


def lines(language: str) -> list[str]:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_specs_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.key").write_bytes(bytes(range(64)))
    specs = lines("disk")
    assert len(specs) > 8
    for spec in specs:
        disk = open_disk(spec)
        get(disk, 0, 1)
        disk.close()


def test_the_errors_are_those_it_shows() -> None:
    for line in lines("errors"):
        text, _, message = line.partition(" ")
        with pytest.raises(SpecError) as caught:
            parse(text)
        assert str(caught.value) == f"{text!r}: {message.strip()}"


def test_a_description_says_the_same(tmp_path: Path) -> None:
    """In its texts a comma is written once, and comes twice to the parser."""
    stack = {
        "kind": "delay",
        "profile": "average=1us,p99=20us,seed=3",
        "disk": {
            "kind": "throttle",
            "limits": "iops=500000,bps=20G",
            "disk": {"kind": "record", "file": f"{tmp_path}/a,b:c", "disk": "mem:1M"},
        },
    }
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    disk = open_disk(f"@{tmp_path}/stack.json")
    assert disk.details == {"delay": "average=0.001ms,p99=0.02ms"}
    assert disk.inner[0].details == {"limits": f"iops=500000,bps={20 << 30},burst=0.1"}
    disk.close()
    assert (tmp_path / "a,b:c").exists()


def test_every_form_is_there() -> None:
    for kind in filters.KINDS:
        assert f"`{kind.form}`" in DOCS
