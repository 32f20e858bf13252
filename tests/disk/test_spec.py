"""The grammar of disk specs, and what it says about text that makes no sense."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk import spec
from drivebay.disk.backends.file import FileDisk
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.spec import (
    Kind,
    Opener,
    Scanner,
    SpecError,
    known_kinds,
    open_disk,
    parse,
    parse_attachment,
    register,
)
from drivebay.testing import RecordingDisk

SIZES = {  # after nbdkit's server/test-public.c
    "0": 0,
    "1": 1,
    "1b": 1,
    "1B": 1,
    "1s": 512,
    "1S": 512,
    "1k": 1 << 10,
    "1K": 1 << 10,
    "1m": 1 << 20,
    "1M": 1 << 20,
    "1g": 1 << 30,
    "1G": 1 << 30,
    "1t": 1 << 40,
    "1T": 1 << 40,
    "1p": 1 << 50,
    "1P": 1 << 50,
    "1e": 1 << 60,
    "7E": 7 << 60,
    "1024": 1024,
    "000000000000000000000000000000001k": 1024,
    "9223372036854775807": (1 << 63) - 1,
}

BAD_SIZES = {  # text: (position, expected)
    "": (0, "a size"),
    "M": (0, "a size"),
    "-1": (0, "a size"),
    "+1": (0, "a size"),
    " 1": (0, "a size"),
    "٣": (0, "a size"),
    "0x0": (1, "the end of the size"),
    "1MB": (2, "the end of the size"),
    "1MiB": (2, "the end of the size"),
    "64Mi": (3, "the end of the size"),
    "1.5M": (1, "the end of the size"),
    "1z": (1, "the end of the size"),
    "8E": (0, "less than 8E"),
    "9223372036854775808": (0, "less than 8E"),
    "9" * 5000: (0, "less than 8E"),
}


def scan(text: str) -> Scanner:
    return Scanner(text, lambda scanner: parse("mem:1M"))


@pytest.mark.parametrize("text", SIZES)
def test_size(text: str) -> None:
    assert scan(text).size() == SIZES[text]


@pytest.mark.parametrize("text", BAD_SIZES)
def test_bad_size_names_the_character(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        scan(text).size()
    position, expected = BAD_SIZES[text]
    assert caught.value.position == position
    assert expected in caught.value.expected


ERRORS = {  # spec: (position, part of what was expected); after openvmm.md 17.3
    "": (0, "a disk"),
    ",ro": (0, "a disk"),
    "mem:": (4, "a size"),
    "mem:0": (4, "a whole number of sectors"),
    "mem:1000": (4, "a whole number of sectors of 512"),
    "mem:5k;sector=4k": (4, "a whole number of sectors of 4096"),
    "mem:1M;sector=1000": (14, "a power of two from 512"),
    "mem:1M;sector=128k": (14, "a power of two from 512"),
    "mem:1M;sector": (13, "'='"),
    "mem:1M;sector=4k;sector=4k": (17, "sector only once"),
    "mem:1M;": (7, "one of sector"),
    "mem:1M;size=1": (7, "one of sector"),
    "mem:1M:file:x": (6, "';', ',' or the end"),
    "file:": (5, "a path"),
    "file:;direct": (5, "a path"),
    "file:x;cache=fast": (13, "writeback, none"),
    "file:x;direct=on": (13, "';', ',' or the end"),
    "file:x;direct;cache=none": (14, "one of direct and cache="),
    "file:x;cache=none;direct": (18, "one of direct and cache="),
    "file:x;create=64Mi": (17, "the end of the size"),
    "memdiff:": (8, "a disk"),
    "memdiff:mem:1M;direct": (15, "one of sector"),
    "memdiff:memdiff:mim:1M": (16, "a kind of disk"),
    "file:x;create": (13, "'=' and a value for create"),
    "file:x;direct;direct": (14, "direct only once"),
    "mem:VMGS_DEFAULT": (4, "a size"),
    "mem:1KB": (6, "the end of the size"),
    "MEM:1M": (0, "a kind of disk"),
    "d:\\x.img": (0, "a kind of disk"),
    ":x": (0, "a kind of disk"),
    "iso:": (4, "a path"),
    "iso:x;direct": (5, "',' or the end"),
    "block:": (6, "a path"),
    "block:x;create=1M": (8, "one of direct, cache, sector"),
    "sql:": (4, "a path"),
    "sql:x;create": (12, "'=' and a value for create"),
    "sql:x;create=": (13, "a size"),
    "sql:x;create=1000": (4, "a whole number of sectors"),
    "sql:x;direct": (6, "one of create, sector"),
    "sqldiff:": (8, "a path"),
    "sqldiff:x": (9, "':' and a disk"),
    "sqldiff:x;create": (16, "':' and a disk"),
    "sqldiff:x;create=1M:mem:1M": (16, "':' and a disk"),
    "sqldiff:x;make:mem:1M": (10, "create"),
    "sqldiff:x:": (10, "a disk"),
    "sqldiff:x:foo:y": (10, "a kind of disk"),
    "autocache:": (10, "a key"),
    "autocache:k": (11, "':' and a disk"),
    "autocache:k:": (12, "a disk"),
    "autocache::": (11, "a disk"),
    "crypt:": (6, "a cipher"),
    "crypt:aes:k:mem:1M": (6, "a cipher"),
    "crypt:xts-aes-256": (17, "':' and a key file"),
    "crypt:xts-aes-256:": (18, "a key file"),
    "crypt:xts-aes-256:k": (19, "':' and a disk"),
    "crypt:xts-aes-256:k:": (20, "a disk"),
    "prwrap:": (7, "a disk"),
    "prwrap:mem:1M:x": (13, "';', ',' or the end"),
    "delay:5:": (8, "a disk"),
    "delay:x:mem:1M": (6, "one of fixed"),
    "discard:x:mem:1M": (8, "one of zeroes, unspecified, ignored"),
    "discard:zeroes": (14, "':' and a disk"),
    "throttle::mem:1M": (9, "one of iops"),
    "striped:64k": (11, "'[' and a disk"),
    "striped:[mem:1M": (15, "']' after the disk"),
    "striped:[mem:1M][mem:1M]x": (24, "',' or the end"),
    "cache:fast:mem:1M": (6, "one of writeback"),
    "qcow2:chain:": (12, "a disk"),
    "vhdx:foo:x": (5, "a kind of disk"),
    "nbd:x": (4, "an NBD URI"),
    "@": (1, "the path of a description"),
    "foo:bar": (0, "a kind of disk"),
    "my disk:1": (0, "a kind of disk"),
    "mem:1M,": (7, "an option"),
    "mem:1M,ro,": (10, "an option"),
    "mem:1M,=on": (7, "an option"),
}


@pytest.mark.parametrize("text", ERRORS)
def test_an_error_names_the_character_and_what_was_expected_there(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_attachment(text)
    error = caught.value
    position, expected = ERRORS[text]
    assert (error.position, error.text) == (position, text)
    assert expected in error.expected
    assert error.found == text[position : position + 1]
    assert "\n" not in str(error) + error.hint


def test_an_error_is_one_line_and_a_hint() -> None:
    with pytest.raises(SpecError) as caught:
        parse("mem:64Mi")
    assert str(caught.value) == "'mem:64Mi': character 8 is 'i', expected the end of the size"
    assert caught.value.hint.startswith("a size is a whole number and K, M")
    with pytest.raises(SpecError, match=r"'mem:': it ends there, expected a size such as 64M"):
        parse("mem:")


def test_an_unknown_kind_lists_the_kinds_and_guesses() -> None:
    with pytest.raises(SpecError) as caught:
        parse("mendiff:mem:1M")
    assert caught.value.hint.startswith("did you mean memdiff:? kinds of disk: ")
    for kind in known_kinds():
        assert f" {kind}" in caught.value.hint


@given(st.text(alphabet="memdiff:;,=./1MKx sectorcache", max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse_attachment(text)
    except SpecError as error:
        assert 0 <= error.position <= len(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("disk.img", "disk.img"),
        ("file:disk.img", "disk.img"),
        ("/dev/disk/by-path/pci-0000:00:1f.2", "/dev/disk/by-path/pci-0000:00:1f.2"),
        ("./a:b", "./a:b"),
        ("file:a:b", "a:b"),
        ("a,,b", "a,b"),
        ("file:a;;b,,c;direct", "a;b,c"),
        ("/a b/ü.img;sector=4096", "/a b/ü.img"),
    ],
)
def test_a_path_is_taken_as_it_is_written(
    text: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def no_file(path: str, **options: Any) -> Disk:
        opened.append(path)
        return RamDisk(512)

    monkeypatch.setattr("drivebay.disk.backends.file.FileDisk", no_file)
    node = parse(text)
    assert node.kind == "file"
    node.open()
    assert opened == [path]


def test_options_reach_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    disk = open_disk(f"{path};create=1M;cache=unsafe;sector=4k")
    assert isinstance(disk, FileDisk)
    assert (disk.byte_count, disk.sector_size, disk.cache) == (1 << 20, 4096, "unsafe")
    disk.close()
    disk = open_disk(f"file:{path};direct;sector=4k", read_only=True)
    assert isinstance(disk, FileDisk)
    assert (disk.cache, disk.read_only) == ("none", True)
    disk.close()
    disk = open_disk("mem:1M;sector=64k")
    assert (disk.sector_count, disk.sector_size, disk.kind) == (16, 65536, "mem")


def test_the_rest_after_a_comma_is_handed_back_in_order() -> None:
    attachment = parse_attachment("memdiff:mem:1M,ro,on=nvme0,socket=/tmp/a,,b,x=")
    assert attachment.disk.text == "memdiff:mem:1M"
    assert [(o.name, o.value, o.position) for o in attachment.options] == [
        ("ro", None, 15),
        ("on", "nvme0", 18),
        ("socket", "/tmp/a,b", 27),
        ("x", "", 44),
    ]
    with pytest.raises(SpecError, match="character 7 is ','"):
        parse("mem:1M,ro")


def test_attach_options_are_checked_against_what_is_known() -> None:
    def checked(text: str) -> dict[str, str | bool]:
        return parse_attachment(text).checked(flags=["ro", "dvd"], keys=["socket"])

    assert checked("mem:1M,ro,dvd=off,socket=/s") == {"ro": True, "dvd": False, "socket": "/s"}
    assert checked("mem:1M,ro=on") == {"ro": True}
    for text, position in {
        "mem:1M,rw": 7,
        "mem:1M,ro,ro": 10,
        "mem:1M,ro=yes": 10,
        "mem:1M,socket": 13,
        "mem:1M,socket=": 13,
    }.items():
        with pytest.raises(SpecError) as caught:
            checked(text)
        assert caught.value.position == position


def test_specs_nest_deeply_but_not_without_end() -> None:
    """Hostile 4.12: RecursionError."""
    disk = open_disk("memdiff:" * 127 + "mem:1M")
    assert len(disk.inner) == 128
    for depth in (128, 100_000):
        with pytest.raises(SpecError, match="no more than 128 disks"):
            parse("memdiff:" * depth + "mem:1M")


def test_what_cannot_be_opened_says_why_and_closes_what_was_open(tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    with pytest.raises(DiskOpenError, match="No such file"):
        open_disk(f"memdiff:{path}")
    disk = open_disk(f"{path};create=1M")
    with pytest.raises(DiskOpenError, match="in use"):
        open_disk(f"memdiff:{path}")
    disk.close()
    open_disk(f"memdiff:{path}").close()
    open_disk(str(path)).close()


def _echo(scanner: Scanner) -> Opener:
    below = scanner.disk()
    return lambda read_only: RecordingDisk(below.open(read_only))


def test_a_kind_joins_by_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_kinds", dict(spec._kinds))
    register(Kind("echo", "echo:DISK", _echo))
    assert isinstance(open_disk("echo:memdiff:mem:1M"), RecordingDisk)
    with pytest.raises(ValueError, match="already"):
        register(Kind("mem", "mem:", _echo))


def test_a_kind_joins_by_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_kinds", dict(spec._kinds))
    module = type(sys)("echo_plugin")
    module.__dict__["kind"] = Kind("echo", "echo:DISK", _echo)
    monkeypatch.setitem(sys.modules, "echo_plugin", module)
    entries = metadata.EntryPoints(
        [
            metadata.EntryPoint("echo", "echo_plugin:kind", spec.ENTRY_POINTS),
            metadata.EntryPoint("broken", "no_such_plugin:kind", spec.ENTRY_POINTS),
        ]
    )
    monkeypatch.setattr(metadata, "entry_points", entries.select)
    assert isinstance(open_disk("memdiff:echo:mem:1M").inner[1], RecordingDisk)
    with pytest.raises(DiskOpenError, match=r"broken: no_such_plugin:kind cannot be loaded"):
        parse("broken:x")
    with pytest.raises(SpecError) as caught:
        parse("ecko:x")
    assert "did you mean echo:?" in caught.value.hint


def test_a_node_knows_the_disks_under_it(tmp_path: Path) -> None:
    node = parse(f"memdiff:memdiff:file:{tmp_path}/base")
    assert (node.kind, node.inner[0].kind, node.inner[0].inner[0].kind) == (
        "memdiff",
        "memdiff",
        "file",
    )
    assert node.inner[0].inner[0].text == f"file:{tmp_path}/base"
    (tmp_path / "base").write_bytes(bytes(512))
    disk = node.open()
    assert disk.inner[-1].read_only
    disk.close()
    node.inner[0].inner[0].written = True
    disk = node.inner[0].open()
    assert not disk.inner[-1].read_only
    disk.close()
