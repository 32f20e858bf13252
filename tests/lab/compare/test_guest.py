"""The jobs in a guest: what is counted there is what Linux's drivers are known to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.main import main
from drivebay.lab.compare import Comparison, Row, compare

from .support import PEER

MAKERS = ("drivebay", "QEMU")
ONE, MANY = "randread-4k-qd1", "randread-4k-qd32"


def compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> dict[tuple[str, str, str], Row]:
    """The rows of a short run, ours by ``drivebay`` and QEMU's by ``QEMU``."""
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(4 << 20))
    quick = ["--disk", f"file:{image}", "--seconds", "0.1", "--rounds", "1", "--json"]
    assert main(["lab", "compare", *words, *quick]) == 0
    found = Comparison.from_json(capsys.readouterr().out.encode())
    assert all(row.median > 0 and row.costs.commands > 0 for row in found.rows)
    return {(row.contender, row.by.partition(" ")[0], row.job): row for row in found.rows}


@pytest.mark.guest
@pytest.mark.timeout(400)
def test_ours_beside_qemus_in_one_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "compare.html"
    rows = compared(tmp_path, capsys, "--only", "virtio-blk,nvme", "--html", str(page))
    for by in MAKERS:
        virtio = rows["virtio-blk", by, ONE].costs
        assert virtio.accesses == 0
        assert 0 < virtio.kicks < 1.1  # who looks out for the next request wants no kick
        assert rows["virtio-blk", by, MANY].costs.in_flight > 1
        nvme = rows["nvme", by, ONE].costs
        assert nvme.accesses == pytest.approx(2, rel=0.05)  # a doorbell of each queue
        assert nvme.in_flight == 1
    assert "What a register access costs" in page.read_text()


@pytest.mark.guest
@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_without_ncq_there_is_one_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--only", "ahci", "--cache", "writethrough", "--overwrite"]
    rows = compared(tmp_path, capsys, *words)
    for by in MAKERS:
        ahci = rows["ahci", by, ONE].costs
        assert ahci.accesses == pytest.approx(6, rel=0.05)  # PxCI, and five for the interrupt
        assert ahci.interrupts == pytest.approx(1, rel=0.1)
        assert rows["ahci", by, MANY].costs.in_flight == 1
        assert rows["ahci", by, "randwrite-4k-qd1"].cache == "writethrough"


def test_what_a_guest_cannot_have_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def nobody(*_arguments: Any, **options: Any) -> list[Row]:
        asked.update(options)
        return []

    monkeypatch.setattr("drivebay.lab.compare.run.compare_in_guest", nobody)
    monkeypatch.setattr("drivebay.lab.compare.run.peer_name", lambda _qemu: PEER)
    monkeypatch.setattr("drivebay.lab.compare.run.find_qemu", lambda: None)
    found = compare("mem:1M", only=["int13", "nvme"])
    assert asked["file"] is None
    assert [note.partition(":")[0] for note in found.notes] == [
        "Not in a guest, as Linux has no driver for it",
        "QEMU's own controllers are left out",
    ]


@pytest.mark.parametrize(("before", "raw"), [("file:", True), ("", True), ("cache:none:", False)])
def test_qemus_own_are_given_raw_files_only(
    before: str, raw: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    asked: dict[str, Any] = {}

    def nobody(*_arguments: Any, **options: Any) -> list[Row]:
        asked.update(options)
        return []

    monkeypatch.setattr("drivebay.lab.compare.run.compare_in_guest", nobody)
    monkeypatch.setattr("drivebay.lab.compare.run._about", lambda _vm, _accel: {})
    compare(f"{before}{image}", only=["nvme"])
    assert asked["file"] == (image if raw else None)
