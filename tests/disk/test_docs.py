"""docs/disks.md says what is true: its examples are run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk import spec
from drivebay.disk.backends.file import CACHE_MODES
from drivebay.disk.errors import MediumError
from drivebay.disk.spec import SpecError, forms, open_disk, parse
from tests.disk.support import get

DOCS = (Path(__file__).parents[2] / "docs" / "disks.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


def test_the_specs_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("disk") for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        disk = open_disk(line)
        get(disk, 0, 1)
        disk.close()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"disk.img", "backup 12:30.img", "a,b.img"}


def test_the_errors_are_those_it_shows() -> None:
    [block] = blocks("errors")
    for line in block.splitlines():
        text, _, message = line.partition(" ")
        with pytest.raises(SpecError) as caught:
            parse(text)
        assert str(caught.value) == f"{text!r}: {message.strip()}"


def test_the_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_kinds", dict(spec._kinds))
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks("python"):
        exec(compile(block, "docs/disks.md", "exec", dont_inherit=True), names)
    disk = open_disk("memdiff:badsector:7:mem:1M")
    assert get(disk, 0, 7) == bytes(7 * 512)
    with pytest.raises(MediumError, match="sector 7"):
        get(disk, 0, 8)


def test_every_form_and_cache_mode_is_there() -> None:
    for form in (*forms(), *CACHE_MODES):
        assert f"`{form}`" in DOCS
