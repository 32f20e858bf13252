"""sg:PATH: drives of the host on the command line, played by a recording of a real libata's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drivebay.ata.passthrough import Category, PassthroughDrive, RecordedAnswers
from drivebay.cli import ide as ide_module
from drivebay.cli import sata as sata_module
from drivebay.cli.errors import told
from drivebay.disk.backends import sg
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.spec import open_disk
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from tests.fixtures import engine_without_threads as engine

__all__ = ["engine"]  # a fixture

from .support import parse

RECORDING = Path(__file__).parent.parent / "passthrough" / "libata-6.1.jsonl"


class Played(RecordedAnswers):
    """What `SgDevice` is, with the answers of the drive that was recorded."""

    max_transfer = 64 << 10
    closed: list[str] = []

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(RECORDING.read_text().splitlines())

    def close(self) -> None:
        self.closed.append(self.path)


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of devices that were closed."""
    monkeypatch.setattr(sg, "SgDevice", Played)
    monkeypatch.setattr(Played, "closed", [])
    return Played.closed


def opened(engine: Engine, *ahci: str, ide: tuple[str, ...] = ()) -> list[PassthroughDrive]:
    [controller] = parse(ide=ide, ahci=ahci)
    build = sata_module.build if ahci else ide_module.build
    _, found = build(controller, GuestMemory.of_size(1 << 20), engine)
    assert not found.disks
    return [each for each in found.devices if isinstance(each, PassthroughDrive)]


def test_it_is_only_read_unless_more_is_allowed(engine: Engine) -> None:
    [drive] = opened(engine, "sg:/dev/sg0,port=3")
    assert isinstance(drive.transport, Played)
    assert drive.transport.path == "/dev/sg0"
    assert drive.policy.allow == {Category.READ}
    assert not drive.policy.dry_run
    assert drive.max_transfer == 64 << 10


def test_more_is_named(engine: Engine) -> None:
    [drive] = opened(engine, ide=("sg:/dev/sg1,s,allow=write+erase,dry-run",))
    assert drive.policy.allow == {Category.READ, Category.WRITE, Category.ERASE}
    assert drive.policy.dry_run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mem:1M,allow=write", "allow is for drives of the host"),
        ("mem:1M,dry-run", "dry-run is for drives of the host"),
        ("sg:/dev/sg0,serial=X", "serial is the drive's own"),
        ("sg:/dev/sg0,dvd", "dvd is the drive's own"),
        ("sg:/dev/sg0,ro,allow=write", "ro and allow="),
        ("sg:/dev/sg0,allow=write+all", "some of read, write, erase, firmware, security, settings"),
        ("sg:", "a path such as /dev/sg0"),
    ],
)
def test_a_mistake_is_one_line(text: str, message: str) -> None:
    with pytest.raises(Exception) as caught:
        parse(ahci=[text])
    known = told(caught.value)
    assert known is not None
    assert message in str(known)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((0, bytes(0), 512), "no ATA disk"),
        (OSError(19, "No such device"), "/dev/sg0: No such device"),
    ],
)
def test_a_device_that_is_no_ata_disk(
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    played: list[str],
    failure: tuple[int, bytes, int] | OSError,
    message: str,
) -> None:
    def execute(*_: object) -> tuple[int, bytes, int]:
        if isinstance(failure, OSError):
            raise failure
        return failure

    monkeypatch.setattr(Played, "execute", execute)
    with pytest.raises(DiskOpenError, match=message):
        opened(engine, "sg:/dev/sg0")
    assert played == ["/dev/sg0"]


def test_it_is_no_disk() -> None:
    with pytest.raises(DiskOpenError, match="it takes commands, and is no disk") as caught:
        open_disk("sg:/dev/sg0")
    assert "--ahci" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "message"), [("/dev/absent", "No such file"), ("/dev/null", "no SCSI device")]
)
def test_serve_says_what_is_wrong_with_it(path: str, message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drivebay.cli.main", "serve", "--ahci", f"sg:{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "hint: lsscsi -g" in done.stderr
    assert "Traceback" not in done.stderr
