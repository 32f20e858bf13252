"""A guest on a disk that is recorded, and on what is left: here our driver, over vhost-user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli import lab_powercut_guest
from drivebay.cli.errors import CliError
from drivebay.cli.lab_powercut_guest import BootCheck, record
from drivebay.disk.backends.ram import RamDisk
from drivebay.guests.errors import GuestError
from drivebay.guests.session import Result
from drivebay.lab.powercut import Log
from drivebay.testing import FrontEnd
from tests.disk.support import get, put

SIZE = 1 << 20
Work = Callable[[FrontEnd, Callable[[bytes], None]], int]


class Driven:
    """What `LinuxGuest` is to those who call it: `script` is a function that works the disk."""

    qemu_args: tuple[str, ...] = ()

    def __init__(self, script: Work) -> None:
        self._script = script
        self.qemu = self
        self.version = (10, 0)
        self.killed = False

    def start(self) -> None:
        [path] = [word for word in self.qemu_args if word.startswith("socket,")]
        self._disk = FrontEnd(path.split("path=")[1].split(",")[0])

    def run(self, script: Work, *, timeout: float, on_output: Any = None) -> Result:
        said: list[bytes] = []
        status = script(self._disk, on_output or said.append)
        return Result(status, b"".join(said).decode(), 0.0)

    def kill(self) -> None:
        self._disk.close()
        self.killed = True


@pytest.fixture(autouse=True)
def driven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab_powercut_guest, "_guest", lambda script, **options: Driven(script))


def recorded(work: Work, folder: Path) -> tuple[Log, list[bytes]]:
    base, said = RamDisk(SIZE), list[bytes]()
    log = str(folder / "log")
    record(work, base, log, memory="1M", timeout=1, on_output=said.append)  # type: ignore[arg-type]
    return Log(log, SIZE, 512), said


def test_what_it_writes_flushes_and_says_is_recorded(tmp_path: Path) -> None:
    def work(disk: FrontEnd, say: Callable[[bytes], None]) -> int:
        disk.write(0, b"1" * 512)
        disk.flush()
        say(b"x" * 500)
        disk.write(8, b"2" * 512)
        say(b"two")
        return 0

    log, said = recorded(work, tmp_path)
    with log:
        history = log.history
        assert said == [b"x" * 500, b"two"]
        assert history.said(history.moment) == b"x" * 500 + b"two"
        assert [(c.offset, c.length, c.fua) for c in history.changes] == [
            (0, 512, False),
            (4096, 512, False),
        ]
        assert len(history.flushes) == 1
        first = history.marks[0].moment
        assert history.flushes[0].ended < first < history.changes[1].began
        assert [change.number for change in history.cut(history.moment).changes] == [2]


def test_what_has_gone_wrong_there_is_no_recording(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="status 3"):
        recorded(lambda disk, say: 3, tmp_path)


def test_the_recording_of_a_guest_that_dies_ends_there(tmp_path: Path) -> None:
    def work(disk: FrontEnd, say: Callable[[bytes], None]) -> int:
        disk.write(0, b"1" * 512)
        raise GuestError("it is dead")

    with pytest.raises(GuestError):
        recorded(work, tmp_path)
    with Log(str(tmp_path / "log"), SIZE, 512) as log:
        assert len(log.history.changes) == 1


def test_a_guest_looks_at_an_image_and_may_write_to_it(tmp_path: Path) -> None:
    def write(disk: FrontEnd, say: Callable[[bytes], None]) -> int:
        disk.write(0, b"1" * 512)
        disk.write(8, b"2" * 512)
        return 0

    def look(disk: FrontEnd, say: Callable[[bytes], None]) -> int:
        first, second = disk.read(0, 512), disk.read(8, 512)
        disk.write(16, b"3" * 512)
        assert disk.read(16, 512) == b"3" * 512
        say(b"wrong")
        return int(first != b"0" * 512 or second != b"2" * 512)

    def panic(disk: FrontEnd, say: Callable[[bytes], None]) -> int:
        raise GuestError("it panicked", console="one\ntwo\nthree\nfour\nfive\nsix")

    base = RamDisk(SIZE)
    put(base, 0, b"0" * 512)
    log, _ = recorded(write, tmp_path)
    with log:
        end = log.history.moment
        good, bad = (log.history.image(f"{end}:{kept}") for kept in ("2", "1,2"))
        check = BootCheck(look, memory="1M", timeout=1)  # type: ignore[arg-type]
        assert check(good, base) is None
        assert check(bad, base) == "status 1: wrong"
        dead = BootCheck(panic, memory="1M", timeout=1)  # type: ignore[arg-type]
        assert dead(good, base) == "it panicked\ntwo\nthree\nfour\nfive\nsix"
    assert get(base, 0, 1) == b"0" * 512
    assert get(base, 16, 1) == bytes(512)
