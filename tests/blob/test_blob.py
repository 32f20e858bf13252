"""`blob:` wherever the object is: the suite, the footer, reading ahead, what is refused."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from drivebay.disk.backends.blob import KEPT, PART, BlobDisk
from drivebay.disk.conformance import Check, checks
from drivebay.disk.errors import DiskOpenError, IoError
from drivebay.disk.formats.vhd.footer import DiskType, Footer
from drivebay.disk.spec import SpecError, open_disk, parse
from drivebay.suspend import run, together
from tests.blob.server import ObjectServer
from tests.disk.support import get, noise, put, view

CONTENT = noise(32 * 512)
VHD = CONTENT + Footer.make(len(CONTENT), DiskType.FIXED, unique_id=bytes(range(16))).pack()

FORMS = ["flat", "vhd1"]

Place = Callable[[Path, bytes], AbstractContextManager[str]]


@contextmanager
def over_http(path: Path, content: bytes) -> Iterator[str]:
    with ObjectServer(content) as server:
        yield server.url


@contextmanager
def in_a_file(path: Path, content: bytes) -> Iterator[str]:
    (path / "an object").write_bytes(content)
    yield f"file://{path}/an%20object"


@contextmanager
def in_a_store(path: Path, content: bytes) -> Iterator[str]:
    memory = MemoryStore()
    obstore.put(memory, "folder/object", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("obstore.store.from_url", lambda url, **options: memory)
        yield "s3://bucket/folder/object"


PLACES = pytest.mark.parametrize("place", [over_http, in_a_file, in_a_store])


@PLACES
@pytest.mark.parametrize(("form", "content"), [("flat", CONTENT), ("vhd1", VHD)], ids=FORMS)
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
def test_the_suite(place: Place, form: str, content: bytes, check: Check, tmp_path: Path) -> None:
    with place(tmp_path, content) as url:
        check(lambda: open_disk(f"blob:{form}:{url}", read_only=True))


@PLACES
def test_the_footer_is_not_shown(place: Place, tmp_path: Path) -> None:
    """openvmm.md 5.3, read_past_end_does_not_return_footer."""
    with place(tmp_path, VHD) as url:
        disk = open_disk(f"blob:vhd1:{url}", read_only=True)
        assert get(disk, 0, disk.sector_count) == CONTENT
        disk.close()


def test_the_id_is_that_of_what_was_opened() -> None:
    """A cache that is found by it never holds data of another version."""
    ids = []
    with ObjectServer(VHD) as server:
        for server.tag in ('"one"', '"one"', '"two"'):
            for form in FORMS:
                disk = open_disk(f"blob:{form}:{server.url}", read_only=True)
                ids.append(disk.disk_id)
                disk.close()
    assert ids[:2] == ids[2:4]
    assert len(set(ids)) == 4


@PLACES
def test_a_stack_of_layers_on_an_object(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIVEBAY_AUTO_CACHE_PATH", str(tmp_path / "caches"))
    with place(tmp_path, VHD) as url:
        for _ in range(2):
            disk = open_disk(f"memdiff:autocache::blob:vhd1:{url}")
            put(disk, 3, noise(512, 9))
            expected = CONTENT[: 3 * 512] + noise(512, 9) + CONTENT[4 * 512 :]
            assert get(disk, 0, disk.sector_count) == expected
            disk.close()


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    with in_a_file(tmp_path, CONTENT) as url:
        disk = open_disk(f"blob:flat:{url}", read_only=True)
        assert get(disk, 0, 1) == CONTENT[:512]
        os.truncate(tmp_path / "an object", 1024)
        with pytest.raises(IoError, match="changed") as caught:
            get(disk, 1, 1)
        assert caught.value.errno == errno.ESTALE
        disk.close()


def test_a_store_that_lies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lie:
        def __init__(self, result: obstore.GetResult, lie: str) -> None:
            about: dict[str, Any] = {"another tag": {"e_tag": "two"}, "another size": {"size": 1}}
            self.meta = dict(result.meta) | about.get(lie, {})
            self.range = (0, 1) if lie == "another range" else result.range
            self.bytes = (lambda: b"short") if lie == "fewer bytes" else result.bytes

    honest = obstore.get
    with in_a_store(tmp_path, CONTENT) as url:
        disk = open_disk(f"blob:flat:{url}", read_only=True)
        lies = {
            "another tag": errno.ESTALE,
            "another size": errno.ESTALE,
            "another range": errno.EIO,
            "fewer bytes": errno.EIO,
        }
        for lie, number in lies.items():
            monkeypatch.setattr(
                obstore, "get", lambda *a, lie=lie, **options: Lie(honest(*a, **options), lie)
            )
            with pytest.raises(IoError) as caught:
                get(disk, 1, 1)
            assert caught.value.errno == number, lie
        disk.close()


class Held:
    """A source whose reads end when the test says so."""

    name, pinned, version = "held", "size", "1"

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[tuple[int, int]] = []
        self.go = threading.Event()
        self.failing = False
        self.closed = False

    def read(self, offset: int, length: int) -> memoryview:
        self.asked.append((offset, length))
        self.go.wait()
        if self.failing:
            raise IoError(errno.EIO, "held")
        return memoryview(bytes([offset // PART + 1]) * length)

    def close(self) -> None:
        self.closed = True
        self.go.set()


def test_parts_are_fetched_side_by_side() -> None:
    source = Held(4 * PART)
    disk = BlobDisk(source)
    data = view(4 * PART)
    thread = threading.Thread(target=run, args=(disk.read(0, [data]),))
    thread.start()
    while len(source.asked) < 4:  # all are asked for before one has ended
        assert thread.is_alive()
    source.go.set()
    thread.join()
    assert sorted(source.asked) == [(n * PART, PART) for n in range(4)]
    assert bytes(data) == b"".join(bytes([n + 1]) * PART for n in range(4))
    disk.close()
    assert source.closed


def test_random_reads_fetch_what_they_ask_for_and_no_more() -> None:
    source = Held(64 * PART)
    source.go.set()
    disk = BlobDisk(source)
    for sector in (7, 100_000, 3, 50_000):
        get(disk, sector, 8)
    assert source.asked == [(n * 512, 4096) for n in (7, 100_000, 3, 50_000)]
    disk.close()


def test_a_reader_who_reads_on_never_keeps_many_parts() -> None:
    source = Held(20 * PART)
    source.go.set()
    disk = BlobDisk(source)
    sectors = PART // 512 // 2
    for number in range(40):
        byte = number // 2 + 1
        assert get(disk, number * sectors, sectors) == bytes([byte]) * (PART // 2)
        assert len(disk._parts) <= KEPT
    whole = [asked for asked in source.asked if asked[1] == PART]
    assert sorted(whole) == [(n * PART, PART) for n in range(1, 20)]
    disk.close()


def test_what_failed_ahead_is_asked_for_again() -> None:
    source = Held(8 * PART)
    source.go.set()
    disk = BlobDisk(source)
    get(disk, 0, 1)
    get(disk, 1, 1)
    source.failing = True
    with pytest.raises(IoError):
        get(disk, 2, 1)
    source.failing = False
    assert get(disk, 3, 1) == b"\x01" * 512
    assert get(disk, PART // 512, 1) == b"\x02" * 512
    disk.close()


def test_reads_side_by_side_get_their_own_data() -> None:
    source = Held(8 * PART)
    disk = BlobDisk(source)
    parts = [view(PART) for _ in range(8)]
    reads = [disk.read(n * PART // 512, [part]) for n, part in enumerate(parts)]
    source.go.set()
    run(together(reads))
    assert [part[0] for part in parts] == [part[-1] for part in parts] == list(range(1, 9))
    disk.close()


MALFORMED = {  # spec: (position, part of what was expected)
    "blob:": (5, "one of flat, vhd1"),
    "blob:http://x/y": (5, "one of flat, vhd1"),
    "blob:raw:http://x/y": (5, "one of flat, vhd1"),
    "blob:flat": (9, "':' and a URL"),
    "blob:flat:": (10, "a URL"),
    "blob:flat:disk.img": (10, "a URL with http, https, s3, az, gs, file"),
    "blob:flat:ftp://x/y": (10, "a URL with http, https, s3, az, gs, file"),
    "blob:flat:http://[x": (10, "a URL"),
    "blob:flat:http://x/y;direct": (21, "no option"),
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_spec_names_the_character(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    position, expected = MALFORMED[text]
    assert caught.value.position == position
    assert expected in caught.value.expected


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dynamic = bytes(512) + Footer.make(512, DiskType.DYNAMIC).pack()
    for name, content in {
        "small": bytes(100),
        "odd": bytes(1000),
        "dynamic": dynamic,
        "damaged": VHD[:-1] + b"x",
        "cut": VHD[-512:],
        "raw": CONTENT,
    }.items():
        (tmp_path / name).write_bytes(content)
    for spec, what in {
        f"blob:flat:file://{tmp_path}/none": "No such file",
        f"blob:flat:file://{tmp_path}": "is no file",
        f"blob:flat:file://{tmp_path}/small": "no whole number of sectors",
        f"blob:flat:file://{tmp_path}/odd": "no whole number of sectors",
        f"blob:vhd1:file://{tmp_path}/small": "too few for a VHD",
        f"blob:vhd1:file://{tmp_path}/dynamic": "no fixed VHD",
        f"blob:vhd1:file://{tmp_path}/damaged": "checksum",
        f"blob:vhd1:file://{tmp_path}/cut": "too few for a VHD",
        f"blob:vhd1:file://{tmp_path}/raw": "no footer",
        "blob:flat:s3://bucket": "names no object",
    }.items():
        with pytest.raises(DiskOpenError, match=what) as caught:
            open_disk(spec, read_only=True)
        assert "\n" not in str(caught.value) + caught.value.hint
    with pytest.raises(DiskOpenError, match="only read") as caught:
        open_disk(f"blob:flat:file://{tmp_path}/raw")
    assert "memdiff:blob:" in caught.value.hint
    open_disk(f"memdiff:blob:flat:file://{tmp_path}/raw").close()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DiskOpenError, match="needs obstore") as caught:
        open_disk("blob:flat:gs://bucket/key", read_only=True)
    assert "drivebay[cloud]" in caught.value.hint
