"""A disk of a server that runs is recorded, and somebody says when the power is to fail."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.main import main
from drivebay.hosts.control.client import Control, ControlError
from drivebay.testing import FrontEnd


def test_the_power_fails_when_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("before.img").write_bytes(bytes(1 << 20))
    disks = ["record:writes.log:memdiff:before.img,id=vda", "mem:1M,id=vdb"]
    words = [word for disk in disks for word in ("--virtio-blk", disk)]
    with (
        Backend([*words, "--control", "bay.sock"]) as backend,
        FrontEnd(backend.controllers[0]["socket"]) as guest,
        Control("bay.sock") as bay,
    ):
        for number in range(3):
            guest.write(number, bytes([number + 65]) * 512)
            if number == 1:
                bay.mark("vda", "now")
        guest.flush()
        with pytest.raises(ControlError, match="vdb has no record"):
            bay.mark("vdb", "now")
        with pytest.raises(ControlError, match="a mark of 457 bytes"):
            bay.mark("vda", "x" * 457)
    line = "lab powercut writes.log --disk before.img --at mark=now --json --check"
    assert main([*shlex.split(line), "! grep -q B {image}"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["complete"]) == (4, True)
    assert [each["write"] for each in found["smallest"]["left"]] == [2]
    assert main([*shlex.split(line), "! grep -q C {image}"]) == 0
