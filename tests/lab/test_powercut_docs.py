"""docs/powercut.md as it is written: ext2, ext4 and SQLite in a guest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from drivebay.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "powercut.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDED = ("mke2fs", "e2fsck", "debugfs", "sqlite3")
FOLDERS = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@pytest.mark.guest
@pytest.mark.skipif(
    not all(shutil.which(tool, path=FOLDERS) for tool in NEEDED),
    reason=f"one of {', '.join(NEEDED)} is not installed",
)
def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it says fails fails, what it says is safe is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", FOLDERS)
    status, verdicts = 0, []
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "sh":
            Path(text.split("\n")[0].removeprefix("# ")).write_text(text)
        elif language == "console":
            for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
                status = _run(line)
                out, err = capfd.readouterr()
                assert not re.search(r"^drivebay: error", err, re.MULTILINE), (line, err)
        elif language == "text":
            said, found = (re.search(r"(\d+) failed", each) for each in (text, out))
            assert said, text
            assert found, out
            assert (said[1] != "0", found[1] != "0", status) in ((True, True, 1), (False, False, 0))
            verdicts.append(found[1] != "0")
    assert status == 0
    assert verdicts == [True, False, True, False, True]


def _run(line: str) -> int:
    """As a shell would: with what it puts into a line from files."""
    if not line.startswith("drivebay "):
        return subprocess.run(["/bin/sh", "-c", line], check=True).returncode
    return main([re.sub(r"\$\(cat (\S+)\)", _content, word) for word in shlex.split(line)[1:]])


def _content(name: re.Match[str]) -> str:
    return Path(name[1]).read_text()
