"""`rbd:` over modules that have the shape of Ceph's."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from drivebay.disk.backends.rbd import RbdDisk
from drivebay.disk.conformance import Check, checks
from drivebay.disk.contract import Extent, Operation
from drivebay.disk.errors import DiskError, DiskOpenError, IoError, MediumError, NoSpace
from drivebay.disk.spec import SpecError, open_disk, parse
from drivebay.suspend import run
from tests.disk.support import fill, get, noise, put
from tests.rbd.fake import Ceph

SIZE = 64 * 512


@pytest.fixture
def ceph(monkeypatch: pytest.MonkeyPatch) -> Ceph:
    ceph = Ceph(monkeypatch)
    ceph.make("image", SIZE)
    return ceph


def fails(name: str, number: int = errno.EIO) -> Callable[[str], int]:
    return lambda asked: number if asked == name else 0


@pytest.mark.usefixtures("ceph")
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
def test_the_suite(check: Check, read_only: bool) -> None:
    check(lambda: open_disk("rbd:p/image", read_only))


def test_the_spec_reaches_ceph(ceph: Ceph) -> None:
    ceph.make("image", 4096, namespace="ns")
    disk = open_disk("rbd:p/ns/image@snap;conf=/tmp/ceph.conf;user=bob", read_only=True)
    assert (disk.sector_count, disk.optimal_unmap_sectors) == (8, 8)
    assert disk.details == {"image": "p/ns/image@snap"}
    assert ceph.rados_arguments["conffile"] == "/tmp/ceph.conf"
    assert ceph.rados_arguments["rados_id"] == "bob"
    disk.close()
    assert ceph.open == 0


def test_a_writer_has_the_image_alone(ceph: Ceph) -> None:
    disk = open_disk("rbd:p/image")
    with pytest.raises(DiskOpenError, match="acquiring lock"):
        open_disk("rbd:p/image")
    open_disk("rbd:p/image", read_only=True).close()
    disk.close()
    open_disk("rbd:p/image").close()
    assert ceph.open == 0


def test_a_write_with_fua_is_flushed(ceph: Ceph) -> None:
    disk = open_disk("rbd:p/image")
    put(disk, 0, noise(512), fua=True)
    run(disk.write_zeroes(1, 1, fua=True))
    assert ceph.asked == ["write", "flush", "write_zeroes", "flush"]
    disk.close()


def test_extents_are_the_objects_there_are(ceph: Ceph) -> None:
    disk = open_disk("rbd:p/image")
    put(disk, 20, noise(512))
    assert run(disk.extents(3, 30)) == [
        Extent(3, 13, allocated=False, zero=True),
        Extent(16, 8, allocated=True, zero=False),
        Extent(24, 9, allocated=False, zero=True),
    ]
    run(disk.write_zeroes(40, 1, unmap=True))
    assert len(run(disk.extents(0, 64))) == 3
    run(disk.write_zeroes(40, 1))
    assert len(run(disk.extents(0, 64))) == 5
    disk.close()


def test_every_failure_is_an_error_and_the_disk_goes_on(ceph: Ceph) -> None:
    """The fault sweep: every call of librbd's fails once, at its start and at its end."""
    disk = open_disk("rbd:p/image")
    data = fill(disk)
    operations: dict[str, Callable[[], Operation | Coroutine[Any, Any, Any]]] = {
        "read": lambda: disk.read(0, [memoryview(bytearray(512))]),
        "write": lambda: disk.write(0, [memoryview(noise(512, 2))]),
        "flush": disk.flush,
        "discard": lambda: disk.unmap(0, 8),
        "write_zeroes": lambda: disk.write_zeroes(60, 1),
        "resize": lambda: disk.resize(32),
        "size": disk.refresh,
        "diff_iterate": lambda: disk.extents(0, 8),
    }
    for name, operation in operations.items():
        for failing in (name, f"start {name}"):
            if failing.startswith("start") and name in ("resize", "size", "diff_iterate"):
                continue
            ceph.fault = fails(failing)
            with pytest.raises(IoError) as caught:
                run(operation())
            assert caught.value.errno == errno.EIO
            ceph.fault = lambda asked: 0
            assert disk.sector_count == 64
            assert get(disk, 16, 40) == data[16 * 512 : 56 * 512]
    ceph.fault = fails("write", errno.ENOSPC)
    with pytest.raises(NoSpace):
        put(disk, 0, noise(512))
    disk.close()


def test_an_image_made_smaller_elsewhere(ceph: Ceph) -> None:
    disk = open_disk("rbd:p/image")
    ceph.images["", "image"] = bytearray(32 * 512)
    with pytest.raises(MediumError, match="sector 32"):
        get(disk, 30, 4)
    heard: list[int] = []
    disk.on_resize(heard.append)
    run(disk.refresh())
    run(disk.refresh())
    assert heard == [32]
    with pytest.raises(DiskError):
        get(disk, 30, 4)
    disk.close()


def test_what_cannot_be_opened_is_one_line_and_closed_again(
    ceph: Ceph, monkeypatch: pytest.MonkeyPatch
) -> None:
    ceph.make("odd", 1000)
    ceph.make("empty", 0)
    for spec, what in {
        "rbd:p/none": "RBD image not found",
        "rbd:q/image": "error opening pool 'q'",
        "rbd:p/odd": "no whole number of sectors",
        "rbd:p/empty": "no whole number of sectors",
        "rbd:p/image@snap": "a snapshot is only read",
    }.items():
        with pytest.raises(DiskOpenError, match=what) as caught:
            open_disk(spec)
        assert "\n" not in str(caught.value)
    ceph.fault = fails("connect", errno.ETIMEDOUT)
    with pytest.raises(DiskOpenError, match=r"error connecting to the cluster$"):
        open_disk("rbd:p/image")
    assert ceph.open == 0
    monkeypatch.setitem(sys.modules, "rados", None)
    with pytest.raises(DiskOpenError, match="not installed") as caught:
        RbdDisk("p", "image")
    assert "apt install python3-rbd" in caught.value.hint


@pytest.mark.parametrize("text", ["rbd:", "rbd:p", "rbd:p/", "rbd:/i", "rbd:a/b/c/d", "rbd:p/@s"])
def test_a_malformed_spec_names_the_character(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert caught.value.position == 4
    assert "POOL/" in caught.value.expected
