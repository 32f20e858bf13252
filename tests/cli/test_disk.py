"""``drivebay disk``: what each tool does, its exit status, and that a mistake changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli.main import main
from drivebay.disk.errors import IoError
from drivebay.disk.spec import open_disk
from tests.disk.support import get, noise, put

MIB = 1 << 20
FORMATS = ["raw", "qcow2", "vhd", "vhdx"]
QEMU_NAMES = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx"}

Tool = Callable[..., Any]


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    """Runs a tool that must end with `status`; gives its JSON, or what it wrote."""

    def run_tool(*arguments: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert main(["disk", *arguments]) == status
        written = capsys.readouterr()
        if status and not written.out:
            assert written.err.startswith("drivebay: error: ")
            assert len(written.err.strip().splitlines()) <= 2
            return written.err
        return json.loads(written.out) if "--json" in arguments else written.out

    return run_tool


def name_of(format: str) -> str:
    return f"x.{'img' if format == 'raw' else format}"


def write(spec: str, *parts: tuple[int, bytes]) -> None:
    disk = open_disk(spec)
    for sector, data in parts:
        put(disk, sector, data)
    disk.close()


def hashes() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in os.listdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_create_map_check_resize(format: str, tool: Tool) -> None:
    path = name_of(format)
    made = tool("create", path, "16M", "--json")
    assert made["size"] == 16 * MIB
    assert made["kind"] == {"raw": "file"}.get(format, format)
    write(path, (4 * 2048, noise(2 * MIB)))
    found = tool("map", path, "--json")
    assert sum(extent["length"] for extent in found) == 16 * MIB
    data = [extent for extent in found if extent["data"]]
    assert [(extent["start"], extent["length"]) for extent in data] == [(4 * MIB, 2 * MIB)]
    assert tool("map", path).count("data  (2M)") == 1
    if format == "raw":
        assert "no image that can be checked" in tool("check", path, status=63)
    else:
        assert tool("check", path, "--json")["problems"] == []
    if format == "vhd":
        assert "vhd: cannot be resized" in tool("resize", path, "+16M", status=1)
        return
    assert tool("resize", path, "+16M", "--json") == {"size": 32 * MIB, "before": 16 * MIB}
    assert "--shrink cuts off the rest" in tool("resize", path, "8M", status=1)
    disk = open_disk(path, read_only=True)
    assert get(disk, 4 * 2048, 4096) == noise(2 * MIB)
    assert disk.byte_count == 32 * MIB
    disk.close()


def test_check_of_a_database(tool: Tool) -> None:
    write("sql:x.dbhd;create=1M", (5, noise(4096)))
    before = hashes()
    assert tool("check", "x.dbhd", "--json")["problems"] == []
    assert hashes() == before
    with sqlite3.connect("x.dbhd") as db:
        db.execute("UPDATE sectors SET data = 'text' WHERE sector = 6")
        db.execute("INSERT INTO sectors VALUES (99999, NULL)")
    db.close()
    assert tool("check", "sql:x.dbhd", status=2) == (
        "row 6 is no sector\nrow 99999 lies outside of the disk\n1 wrong, 1 wasted\n"
    )
    assert "cannot be repaired" in tool("check", "x.dbhd", "-r", status=1)
    tool("create", "base.img", "1M")
    write("sqldiff:y.dbhd;create:base.img", (5, noise(4096)))
    spoilt = bytearray(Path("y.dbhd").read_bytes())
    spoilt[4096:8192] = noise(4096, 3)
    Path("y.dbhd").write_bytes(spoilt)
    tool("check", "sqldiff:y.dbhd:base.img", status=2)
    Path("z.dbhd").write_bytes(noise(8192))
    assert "is not an SQLite database" in tool("check", "z.dbhd", status=1)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_convert_and_compare(source: str, target: str, tool: Tool) -> None:
    one, two = name_of(source), f"y{name_of(target)}"
    tool("create", one, "20M")
    write(one, (2048, noise(3 * MIB)), (30000, bytes(MIB)), (40959, noise(512, 2)))
    report = tool("convert", one, two, "--json")
    assert report["size"] == 20 * MIB
    assert Path(two).stat().st_blocks * 512 < 12 * MIB  # zeroes take no space
    assert tool("compare", one, two) == "the same\n"
    write(two, (40000, b"x" * 512))
    assert tool("compare", one, two, "--json", status=1)["first_difference"] == 40000 * 512
    if target != "raw":
        tool("check", two)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
@pytest.mark.parametrize("format", FORMATS)
def test_qemu_reads_what_was_converted(format: str, tool: Tool) -> None:
    write("a.img;create=20M", (2048, noise(3 * MIB)), (40959, noise(512, 2)))
    tool("convert", "a.img", "b", "-O", format)
    qemu = ["qemu-img", "compare", "-f", "raw", "-F", QEMU_NAMES[format], "a.img", "b"]
    subprocess.run(qemu, check=True, capture_output=True)


@pytest.mark.parametrize("options", [["-o", "subformat=fixed"], ["-o", "block_size=512k"]])
def test_options_of_a_format(options: list[str], tool: Tool) -> None:
    tool("create", "x.vhd", "4M", *options)
    tool("check", "x.vhd")
    assert (Path("x.vhd").stat().st_size > 4 * MIB) == ("subformat=fixed" in options)


def test_options_are_checked_before_anything_is_made(tool: Tool) -> None:
    for arguments, what in {
        ("x.qcow2", "1M", "-o", "cluster_size=3"): "no clusters of 3 bytes",
        ("x.qcow2", "1M", "-o", "cluster_size=64Ki"): "character 4",
        ("x.qcow2", "1M", "-o", "lazy=on"): "no option of qcow2",
        ("x.qcow2", "1M", "-o", "compat"): "no option of qcow2",
        ("x.qcow2", "1M", "-o", "compat=2"): "not one of 0.10, 1.1",
        ("x.img", "1M", "-o", "compat=1.1"): "no option of raw",
        ("x.img", "1M", "-f", "vmdk"): "no format is called vmdk",
        ("x.vhd", "3000G"): "at most 2040G",
        ("x.img", "1000"): "whole number of sectors",
        ("x.img",): "how large?",
        ("x.qcow2", "-b", "no.img"): "No such file",
        ("x.vhd", "-b", "no.img"): "stands on another vhd only",
        ("x.img", "-b", "no.img"): "stands on nothing",
        ("x.qcow2", "-b", "no", "-F", "dmg"): "no such format",
    }.items():
        assert what in tool("create", *arguments, status=1)
        assert os.listdir() == []


@pytest.mark.parametrize("format", ["qcow2", "vhd", "vhdx"])
def test_an_image_on_a_backing_file(format: str, tool: Tool) -> None:
    base, top = f"base.{format}", f"top.{format}"
    tool("create", base, "8M")
    write(base, (0, noise(MIB)))
    assert tool("create", top, "-b", base, "--json")["size"] == 8 * MIB
    assert tool("compare", f"{format}:chain:{top}", base) == "the same\n"
    write(f"{format}:chain:{top}", (100, noise(512, 3)))
    tool("compare", f"{format}:chain:{top}", base, status=1)


def test_convert_into_a_disk_that_is_there(tool: Tool) -> None:
    write("a.img;create=4M", (7, noise(4096)))
    write("b.img;create=8M", (0, noise(8 * MIB, 2)))
    tool("convert", "-n", "a.img", "b.img")
    disk = open_disk("b.img", read_only=True)
    assert get(disk, 0, 8192) == bytes(7 * 512) + noise(4096) + bytes(4 * MIB - 7 * 512 - 4096)
    assert get(disk, 8192, 8192) == noise(8 * MIB, 2)[4 * MIB :]
    disk.close()
    assert "do not fit" in tool("convert", "-n", "b.img", "a.img", status=1)
    assert "has its format" in tool("convert", "-n", "-O", "raw", "b.img", "a.img", status=1)


def test_a_conversion_that_fails_leaves_no_file(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.img;create=4M", (7, noise(4096)))
    monkeypatch.setattr("drivebay.disk.backends.fd.FdDisk.flush", _failing)
    for target in ("b.img", "b.qcow2", "b.vhd", "b.vhdx"):
        assert "Input/output error" in tool("convert", "a.img", target, status=1)
        assert os.listdir() == ["a.img"]


async def _failing(disk: Any) -> None:
    raise IoError(5, "flush")


def test_sizes_that_differ(tool: Tool) -> None:
    write("a.img;create=4M", (7, noise(4096)))
    write("b.img;create=6M", (7, noise(4096)))
    assert tool("compare", "a.img", "b.img") == "the same\n"
    assert tool("compare", "-s", "a.img", "b.img", status=1) == f"differ from byte {4 * MIB} on\n"
    write("b.img", (9000, b"x" * 512))
    assert tool("compare", "a.img", "b.img", status=1) == f"differ from byte {9000 * 512} on\n"


def test_trouble_while_comparing_is_not_a_difference(tool: Tool) -> None:
    write("a.img;create=4M")
    for other in ("no.img", "foo:bar", "mem:64Mi"):
        tool("compare", "a.img", other, status=2)


def test_check_tells_leaks_from_damage(tool: Tool) -> None:
    tool("create", "x.qcow2", "16M")
    write("x.qcow2", (0, noise(MIB)))
    good = Path("x.qcow2").read_bytes()
    blocks = int.from_bytes(good[48:56], "big")
    counts = int.from_bytes(good[blocks : blocks + 8], "big")

    def with_count(cluster: int, count: int) -> None:
        at = counts + 2 * cluster
        Path("x.qcow2").write_bytes(good[:at] + count.to_bytes(2, "big") + good[at + 2 :])

    last = len(good) // 65536 - 1
    with_count(last, 2)
    assert tool("check", "x.qcow2", "--json", status=3)["leaks"] == 1
    with_count(last, 0)
    assert tool("check", "x.qcow2", "--json", status=2)["corruptions"] == 1
    assert tool("check", "-r", "x.qcow2", "--json")["repaired"] == 1
    tool("check", "x.qcow2")
    tool("create", "x.vhd", "16M")
    Path("x.vhd").write_bytes(Path("x.vhd").read_bytes()[:-512])
    assert tool("check", "x.vhd", "--json", status=2)["corruptions"] >= 1
    assert "cannot be repaired" in tool("check", "-r", "x.vhd", status=1)


def test_commit_and_rebase(tool: Tool) -> None:
    for name, seed in {"base.img": 1, "other.img": 2}.items():
        write(f"{name};create=4M", (0, noise(MIB, seed)))
    write("sqldiff:top.dbhd;create:base.img", (8, noise(4096, 3)))
    before = open_disk("sqldiff:top.dbhd:base.img", read_only=True)
    shown = get(before, 0, before.sector_count)
    before.close()

    tool("rebase", "sqldiff:top.dbhd:base.img", "other.img")
    after = open_disk("sqldiff:top.dbhd:other.img", read_only=True)
    assert get(after, 0, after.sector_count) == shown
    after.close()
    assert "no layer that can be moved" in tool("rebase", "memdiff:base.img", "other.img", status=1)

    tool("commit", "sqldiff:top.dbhd:other.img")
    alone = open_disk("other.img", read_only=True)
    assert get(alone, 0, alone.sector_count) == shown
    alone.close()
    assert "has no layers" in tool("commit", "other.img", status=1)


@pytest.mark.parametrize("format", ["qcow2", "vhd", "vhdx"])
def test_commit_of_an_image_into_what_its_header_names(format: str, tool: Tool) -> None:
    base, top = f"base.{format}", f"top.{format}"
    tool("create", base, "8M")
    write(base, (0, noise(MIB)))
    tool("create", top, "-b", base)
    write(f"{format}:chain:{top}", (100, noise(512, 3)), (9000, noise(4096, 4)))
    tool("convert", f"{format}:chain:{top}", "shown.img")
    tool("commit", f"{format}:chain:{top}")
    assert tool("compare", base, "shown.img") == "the same\n"
    tool("check", base)
    assert "has no layers" in tool("commit", base, status=1)


def test_resize_is_checked(tool: Tool) -> None:
    write("a.img;create=4M")
    for arguments, what in {
        ("a.img", "1000"): "no disk of sectors of 512 has 1000 bytes",
        ("a.img", "-4M", "--shrink"): "has 0 bytes",
        ("a.img", "-5M", "--shrink"): "bytes",
        ("a.img", "+1Mi"): "character 3",
        ("mem:1M;sector=4k", "5k"): "sectors of 4096",
    }.items():
        assert what in tool("resize", *arguments, status=1)
    assert tool("resize", "a.img", "-1M", "--shrink", "--json")["size"] == 3 * MIB


# -- bad input: one clear line, exit 1, nothing changed on disk ------------------------------------


@pytest.mark.parametrize("format", ["qcow2", "vhd", "vhdx"])
def test_a_truncated_image_is_one_line_and_left_alone(format: str, tool: Tool) -> None:
    path = name_of(format)
    tool("create", path, "16M")
    write(path, (0, noise(4 * MIB)))
    whole = Path(path).read_bytes()
    for size in (0, 1, 511, 512, 1000, 65536):
        Path(path).write_bytes(whole[:size])
        for arguments in (("info", path), ("resize", path, "+1M"), ("convert", path, "y.img")):
            tool(*arguments, status=1)
        assert main(["disk", "check", path]) in (1, 2)
        assert hashes() == {path: whole[:size]}


def test_a_read_only_base_is_refused(tool: Tool) -> None:
    write("base.img;create=4M", (0, noise(MIB)))
    before = hashes()
    for spec in ("blob:flat:file://{}/base.img", "iso:base.img", "autocache::base.img"):
        text = spec.format(os.getcwd())
        assert main(["disk", "resize", text, "+1M"]) == 1
        assert main(["disk", "convert", "-n", "mem:1M", text]) == 1
    assert hashes() == before


@pytest.mark.parametrize("format", FORMATS)
def test_two_writers_are_refused(format: str, tool: Tool) -> None:
    path = name_of(format)
    tool("create", path, "4M")
    disk = open_disk(path)
    before = hashes()
    for arguments in (("resize", path, "+1M"), ("convert", "-n", "mem:4M", path)):
        assert "in use" in tool(*arguments, status=1)
    assert hashes() == before
    disk.close()


def test_a_file_that_is_there_is_never_written_over(tool: Tool) -> None:
    for path in ("x.img", "x.qcow2"):
        Path(path).write_bytes(b"precious")
        assert "such a file already" in tool("create", path, "1M", status=1)
        assert "such a file already" in tool("convert", "mem:1M", path, status=1)
        assert Path(path).read_bytes() == b"precious"
