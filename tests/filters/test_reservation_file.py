"""Reservations that outlive a power loss, and their file."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.errors import DiskOpenError, InvalidInput, IoError, NoSpace
from drivebay.disk.filters.prwrap import Prwrap
from drivebay.disk.reservations import Report, ReservationType
from drivebay.disk.spec import open_disk
from drivebay.suspend import run

HOST, OTHER = b"0123456789abcdef", b"8 bytes."
KIND = ReservationType.WRITE_EXCLUSIVE


def opened(path: Path) -> Prwrap:
    return Prwrap(RamDisk(1 << 16), str(path))


def report(disk: Prwrap) -> Report:
    return run(disk.reservations.report())


def test_what_persists_is_there_again(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state")
    host = disk.reservations.of(HOST, 1)
    run(host.register(0, 0xFFFF_FFFF_FFFF_FFFF, persist=True))
    run(disk.reservations.of(OTHER, 2).register(0, 2))
    run(host.reserve(host.key, KIND))
    before = report(disk)
    assert before.persists_through_power_loss
    disk.close()
    disk = opened(tmp_path / "state")
    after = report(disk)
    assert after.generation == 0  # SPC-4 section 6.15.2: by a power on
    assert (after.type, after.persists_through_power_loss) == (KIND, True)
    assert {(one.key, one.host_id) for one in after.registrants} == {
        (one.key, one.host_id) for one in before.registrants
    }
    assert not disk.reservations.of(OTHER, 2).may_write
    assert disk.reservations.of(HOST, 1).may_write
    disk.close()


def test_what_does_not_persist_is_gone(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state")
    host = disk.reservations.of(HOST, 1)
    run(host.register(0, 1, persist=True))
    run(host.reserve(1, KIND))
    run(host.register(1, 1, persist=False))
    assert report(disk).type is KIND
    disk.close()
    disk = opened(tmp_path / "state")
    assert (report(disk).registrants, report(disk).type) == ((), None)
    run(disk.reservations.of(HOST, 1).register(0, 1))
    run(disk.reservations.persist(True))  # NVMe 2.0 section 5.27.1.24, feature 83h
    disk.close()
    disk = opened(tmp_path / "state")
    assert [one.key for one in report(disk).registrants] == [1]
    disk.close()


def test_without_a_file_nothing_persists() -> None:
    disk = Prwrap(RamDisk(1 << 16))
    assert not disk.reservations.can_persist_through_power_loss
    with pytest.raises(InvalidInput):
        run(disk.reservations.of(HOST, 1).register(0, 1, persist=True))
    with pytest.raises(InvalidInput):
        run(disk.reservations.persist(True))
    assert report(disk).registrants == ()


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_cannot_be_stored_is_refused(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = opened(tmp_path / "state")
    host = disk.reservations.of(HOST, 1)
    run(host.register(0, 1, persist=True))
    before = report(disk)

    def failing(*arguments: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(NoSpace if number == errno.ENOSPC else IoError):
            run(host.reserve(1, KIND))
    assert report(disk) == before
    run(host.reserve(1, KIND))
    disk.close()
    disk = opened(tmp_path / "state")
    assert report(disk).type is KIND
    disk.close()


@pytest.mark.parametrize("at", [1, 2])
def test_what_was_refused_is_not_there_after_the_next_request(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second fsync is of the folder: the file has its name by then, and the request failed."""
    disk = opened(tmp_path / "state")
    host = disk.reservations.of(HOST, 1)
    run(host.register(0, 1, persist=True))
    real, calls = os.fsync, 0

    def failing(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.EIO, "cable")
        real(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(IoError):
        run(host.reserve(1, KIND))
    run(host.register(1, 1))  # as it was before
    disk.close()
    disk = opened(tmp_path / "state")
    assert report(disk).type is None
    disk.close()


def test_a_short_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = opened(tmp_path / "state")
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:9], offset))
    with pytest.raises(NoSpace):
        run(disk.reservations.of(HOST, 1).register(0, 1, persist=True))
    disk.close()
    monkeypatch.undo()
    disk = opened(tmp_path / "state")
    assert report(disk).registrants == ()
    disk.close()


def test_a_crash_leaves_the_old_state_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is complete and on the disk before it takes the old one's name."""
    disk = opened(tmp_path / "state")
    host = disk.reservations.of(HOST, 1)
    calls: list[str] = []

    def watch(name: str) -> None:
        call = getattr(os, name)

        def seen(*arguments: Any) -> Any:
            calls.append(name)
            return call(*arguments)

        monkeypatch.setattr(os, name, seen)

    for name in ("pwrite", "fsync", "rename"):
        watch(name)
    run(host.register(0, 1, persist=True))
    assert calls == ["pwrite", "fsync", "rename", "fsync"]
    calls.clear()
    run(host.register(1, 1))  # nothing new to store
    assert calls == []
    disk.close()


def test_two_disks_do_not_share_a_file(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state")
    run(disk.reservations.of(HOST, 1).register(0, 1, persist=True))  # it is another file now
    with pytest.raises(DiskOpenError, match="another process keeps reservations there"):
        opened(tmp_path / "state")
    disk.close()
    opened(tmp_path / "state").close()


GOOD = {
    "format": "drivebay reservations 1",
    "persists": True,
    "type": "write exclusive",
    "holder": HOST.hex(),
    "registrants": [{"host": HOST.hex(), "key": "1"}],
}


@pytest.mark.parametrize(
    "change",
    [
        {"format": "drivebay reservations 2"},
        {"persists": 1},
        {"type": "mine"},
        {"type": None},
        {"holder": OTHER.hex()},
        {"holder": None},
        {"holder": "xyz"},
        {"type": "write exclusive, all registrants"},
        {"type": "write exclusive, all registrants", "holder": None, "registrants": []},
        {"registrants": [{"host": HOST.hex(), "key": "0"}]},
        {"registrants": [{"host": HOST.hex(), "key": "1" + "0" * 16}]},
        {"registrants": [{"host": HOST.hex(), "key": 1}]},
        {"registrants": [{"host": "00" * 257, "key": "1"}], "type": None, "holder": None},
        {"registrants": None},
        {"registrants": [{"host": f"{n:04x}", "key": "1"} for n in range(257)]},
    ],
)
def test_a_file_that_makes_no_sense_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text(json.dumps(GOOD))
    opened(path).close()
    text = json.dumps(GOOD | change)
    path.write_text(text)
    with pytest.raises(DiskOpenError, match="state: not a file of reservations") as caught:
        opened(path)
    assert caught.value.hint
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "null", "\0", " " * ((1 << 20) + 1)])
def test_a_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_text(text)
    with pytest.raises(DiskOpenError, match="not a file of reservations"):
        opened(path)


def test_the_spec_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state"
    disk = open_disk(f"prfile:{path}:mem:1M")
    assert disk.details == {"state": str(path)}
    assert disk.reservations is not None
    assert disk.reservations.can_persist_through_power_loss
    with pytest.raises(DiskOpenError, match="another process"):
        open_disk(f"prfile:{path}:mem:1M")
    disk.close()
    with pytest.raises(DiskOpenError, match="No such file"):
        open_disk(f"prfile:{tmp_path}/none/state:mem:1M")
