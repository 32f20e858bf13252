"""The jobs in a guest: what is counted there is what Linux's drivers are known to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.main import main
from drivebay.lab.compare import Comparison, Row, compare

from .support import PEER

ONE, MANY = "randread-4k-qd1", "randread-4k-qd32"


@pytest.mark.guest
@pytest.mark.timeout(400)
def test_ours_beside_qemus_in_one_boot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, page = tmp_path / "disk.img", tmp_path / "compare.html"
    image.write_bytes(os.urandom(4 << 20))
    words = ["--only", "ahci,virtio-blk,nvme", "--disk", f"file:{image}", "--html", str(page)]
    words += ["--cache", "writethrough", "--overwrite"]
    assert main(["lab", "compare", *words, "--seconds", "0.1", "--rounds", "1", "--json"]) == 0
    found = Comparison.from_json(capsys.readouterr().out.encode())
    makers = {row.by for row in found.rows}
    assert "drivebay" in makers
    [peer] = makers - {"drivebay"}
    rows = {(row.contender, row.by, row.job): row for row in found.rows}
    assert all(row.median > 0 and row.costs.commands > 0 for row in found.rows)
    for by in makers:
        ahci, virtio = rows["ahci", by, ONE].costs, rows["virtio-blk", by, ONE].costs
        assert ahci.accesses == pytest.approx(6, rel=0.05)  # PxCI, and five for the interrupt
        assert ahci.interrupts == pytest.approx(1, rel=0.1)
        assert rows["ahci", by, MANY].costs.in_flight == 1
        assert virtio.accesses == 0
        assert virtio.kicks == pytest.approx(1, rel=0.1)
        assert rows["virtio-blk", by, MANY].costs.in_flight > 1
        assert rows["ahci", by, "randwrite-4k-qd1"].cache == "writethrough"
    nvme = rows["nvme", "drivebay", ONE].costs
    assert nvme.accesses == pytest.approx(2, rel=0.05)  # a doorbell of each queue
    assert nvme.in_flight == 1
    assert ("nvme", peer, ONE) not in rows  # QEMU's has shadow doorbells
    assert "What a register access costs" in page.read_text()


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
