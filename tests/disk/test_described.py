"""Disks described as JSON or TOML, and bare paths by their extension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk import spec
from drivebay.disk.described import TOKEN, Rendered
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import Kind, Opener, Scanner
from drivebay.disk.spec import open_disk, parse, parse_attachment


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def text_of(description: Any) -> str:
    return Rendered("x.json", description, spec._find).text


def test_a_description_is_the_spec_it_says() -> None:
    description = {
        "kind": "memdiff",
        "disk": {"kind": "file", "path": "a;b,c:d.img", "create": "1M", "cache": "none"},
    }
    Path("x.json").write_text(json.dumps(description))
    Path("x.toml").write_text(
        'kind = "memdiff"\n[disk]\nkind = "file"\npath = "a;b,c:d.img"\n'
        'create = "1M"\ncache = "none"\n'
    )
    expected = "memdiff:file:a;;b,,c:d.img;cache=none;create=1M"
    assert parse("@x.json").text == parse("@x.toml").text == parse(expected).text == expected


def test_it_stands_wherever_a_disk_does() -> None:
    Path("x.json").write_text('{"kind": "mem", "size": 1048576, "sector": "4k"}')
    attachment = parse_attachment("memdiff:@x.json,ro")
    assert attachment.disk.text == "memdiff:@x.json"
    disk = attachment.disk.open()
    assert [below.kind for below in disk.inner] == ["ram layer", "mem"]
    assert (disk.byte_count, disk.sector_size) == (1 << 20, 4096)
    Path("y.json").write_text('{"kind": "memdiff", "disk": "memdiff:@x.json"}')
    assert len(open_disk("@y.json").inner) == 3


def test_an_array_of_disks() -> None:
    stripes = {
        "kind": "striped",
        "chunk": "64k",
        "disks": ["mem:1M", {"kind": "mem", "size": "1M"}],
    }
    assert text_of(stripes) == "striped:64k[mem:1M][mem:1M]"
    assert parse(text_of(stripes)).inner[1].text == "mem:1M"
    with pytest.raises(DiskOpenError, match=r"disks\.1\.size: is missing"):
        text_of({"kind": "striped", "disks": ["mem:1M", {"kind": "mem"}]})
    with pytest.raises(DiskOpenError, match="disks: is an array of disks"):
        text_of({"kind": "striped", "disks": "mem:1M"})


BAD = {  # description: part of the error
    '{"kind": "mem"': "x.json: Input data was truncated",
    "[]": "x.json: the whole: a disk is an object or the text of a spec",
    "{}": "x.json: kind: no kind of disk is None",
    '{"kind": ["mem"]}': "x.json: kind: no kind of disk is ['mem']",
    '{"kind": "mim", "size": 1}': "x.json: kind: no kind of disk is 'mim'",
    '{"kind": "mem"}': "x.json: size: is missing: mem:SIZE",
    '{"kind": "mem", "size": true}': "x.json: size: is a text or a whole number",
    '{"kind": "mem", "size": 1.5}': "x.json: size: is a text or a whole number",
    '{"kind": "mem", "size": "64Mi"}': "x.json: size: 'mem:64Mi': character 8 is 'i'",
    '{"kind": "mem", "size": -1}': "x.json: size: 'mem:-1': character 5 is '-'",
    '{"kind": "mem", "size": "1M", "sektor": 512}': "x.json: sektor: no such field: mem:SIZE",
    '{"kind": "mem", "size": "1M", "sector": 100}': "x.json: sector: ",
    '{"kind": "mem", "size": "1M;sector=4k"}': "x.json: size: ",
    '{"kind": "memdiff", "disk": 1}': "x.json: disk: a disk is an object",
    '{"kind": "memdiff", "disk": {"kind": "mem"}}': "x.json: disk.size: is missing",
    '{"kind": "memdiff", "disk": "mem:1M,ro"}': "x.json: disk: ",
    '{"kind": "memdiff", "disk": "@x.json"}': "x.json: disk: ",
    '{"kind": "file", "path": "a", "direct": "on"}': "x.json: direct: is true or false",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_description_names_the_field(text: str) -> None:
    Path("x.json").write_text(text)
    with pytest.raises(DiskOpenError) as caught:
        parse("@x.json")
    assert BAD[text] in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.hint


def test_a_bad_file_names_the_place() -> None:
    Path("x.toml").write_text('kind = "mem"\nsize = \n')
    with pytest.raises(DiskOpenError, match=r"x\.toml: .*line 2"):
        parse("@x.toml")
    Path("x.toml").write_bytes(b"\xff")
    with pytest.raises(DiskOpenError, match=r"x\.toml: .*utf-8"):
        parse("@x.toml")
    Path("x.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(DiskOpenError, match="longer than 1048576 bytes"):
        parse("@x.json")
    for depth in (40, 100_000):
        Path("x.json").write_text('{"kind":"memdiff","disk":' * depth + "1" + "}" * depth)
        with pytest.raises(DiskOpenError, match=r"x\.json: "):
            parse("@x.json")
    with pytest.raises(DiskOpenError, match=r"y\.json: No such file"):
        parse("@y.json")
    with pytest.raises(DiskOpenError, match="expected the path of a description"):
        parse("@")


@given(st.text(min_size=1), st.sampled_from(["none", "unsafe"]), st.booleans())
def test_every_path_is_taken_as_it_is(path: str, cache: str, create: bool) -> None:
    fields = {"kind": "file", "path": path, "cache": cache} | ({"create": 512} if create else {})
    scanner = Scanner(text_of(fields), Scanner.disk)
    scanner.position = len("file:")
    assert scanner.word("a path") == path


@pytest.mark.parametrize("kind", spec._kinds.values(), ids=lambda kind: kind.name)
def test_every_form_can_be_described(kind: Kind) -> None:
    """The fields that a kind must have are those of its form, and there are no others."""
    tokens = TOKEN.finditer(kind.form.partition(":")[2])
    fields: dict[str, Any] = {}
    for token in tokens:
        fields |= {token["field"].lower(): "1"} if token["field"] else {}
        fields |= {"disks": ["1"]} if token["disks"] else {}
    with pytest.raises(DiskOpenError, match="no-field: no such field"):
        text_of({"kind": kind.name, "no-field": 1} | fields)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind of disk that has a name and the bytes of another, as image formats do."""

    def image(scanner: Scanner) -> Opener:
        return scanner.disk().open

    monkeypatch.setattr(spec, "_kinds", spec._kinds | {"vhd": Kind("vhd", "vhd:DISK", image)})


@pytest.mark.usefixtures("kinds")
def test_a_bare_path_is_opened_by_its_extension() -> None:
    for path in ("x.iso", "./x.ISO", "a,,b.iso", "iso:x.img"):
        assert parse(path).kind == "iso"
    for path in ("x.vhd", "/tmp/x:1.vhd", "X.VHD;cache=none"):
        assert parse(path).kind == "vhd"
    assert parse("memdiff:x.vhd").kind == "memdiff"
    with pytest.raises(DiskOpenError, match=r"^x\.vhd: No such file"):
        open_disk("x.vhd")
    for raw in ("file:x.vhd", "file:x.iso", "x.img", "x.vhd.img", "vhd", ".vhd", "x.raw"):
        assert parse(raw).kind == "file"
