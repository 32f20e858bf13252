"""``qcow2:`` in specs and descriptions, and what a person is told."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.file import FileDisk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.formats.qcow2 import Qcow2Disk, create
from drivebay.disk.spec import open_disk
from drivebay.disk.tree import describe, draw
from tests.qcow2.hostile import SIZE, with_snapshot
from tests.qcow2.support import KIB, Ram, blank, content, of_bytes


@pytest.fixture
def path(tmp_path: Path) -> str:
    image = tmp_path / "disk.qcow2"
    image.write_bytes(content(with_snapshot()))
    return str(image)


def test_a_snapshot_by_spec_and_by_description(path: str, tmp_path: Path) -> None:
    description = tmp_path / "disk.json"
    description.write_text(json.dumps({"kind": "qcow2", "snapshot": "shot", "disk": path}))
    for spec in (f"qcow2:snapshot=shot:{path}", f"@{description}"):
        disk = open_disk(spec)
        assert disk.read_only and disk.byte_count == SIZE
        assert disk.details["snapshot"] == "shot"
        disk.close()


def test_a_bare_path_is_opened_by_its_extension(path: str) -> None:
    disk = open_disk(path)
    assert isinstance(disk, Qcow2Disk)
    shown = draw(describe(disk))
    assert "version=3  cluster_size=4096  compression=zlib  snapshots=1" in shown
    assert f"path={path}" in shown
    disk.close()


def test_an_image_on_what_is_only_read_is_only_read(path: str) -> None:
    disk = Qcow2Disk(FileDisk(path, read_only=True))
    assert disk.read_only
    disk.close()


def test_a_snapshot_without_a_disk_is_no_spec() -> None:
    with pytest.raises(DiskOpenError, match="expected ':' and a disk"):
        open_disk("qcow2:snapshot=x")


def test_without_zstd_an_image_that_needs_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = content(blank(64 * KIB))
    raw[72:80] = (1 << 3).to_bytes(8, "big")
    raw[100:104] = (112).to_bytes(4, "big")
    raw[104:112] = b"\1".ljust(8, b"\0")
    disk = of_bytes(raw)
    assert Qcow2Disk(disk).details["compression"] == "zstd"
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **more: Any) -> Any:
        if name in ("backports", "compression"):
            raise ImportError(name)
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    for module in [name for name in sys.modules if name.startswith(("backports", "compression"))]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(DiskOpenError, match="zstd") as caught:
        Qcow2Disk(disk)
    assert "drivebay[zstd]" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"cluster_size": 1000},
        {"cluster_size": 4 << 20},
        {"version": 4},
        {"refcount_bits": 12},
        {"version": 2, "refcount_bits": 8},
        {"backing": "base"},
        {"backing": "b" * 1100, "backing_format": "raw"},
        {"size": 1000},
        {"size": 1 << 40, "cluster_size": 512},
    ],
)
def test_what_cannot_be_made_is_refused(options: dict[str, Any]) -> None:
    disk = Ram(512)
    with pytest.raises(DiskOpenError):
        create(disk, options.pop("size", 64 * KIB), **options)
    assert content(disk) == bytes(512)
