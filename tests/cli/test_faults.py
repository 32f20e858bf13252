"""``--fault``, and the rules of a controller that is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from drivebay.cli import ide, nvme, sata, scsi, virtio_blk
from drivebay.cli.errors import CliError, told
from drivebay.cli.faults import FaultDesk, port_of
from drivebay.cli.places import Places
from drivebay.controllers.nvme import Nvme
from drivebay.disk.errors import DiskOpenError
from drivebay.lab.rules import Subject
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.platform.observer import Observed
from drivebay.platform.pci import PciFunction
from tests.fixtures import engine

from .support import parse

__all__ = ["engine"]  # a fixture


def test_rules_go_to_the_controllers_they_name() -> None:
    found = parse(
        controller=["nvme,id=left", "nvme,id=right"],
        disk=["mem:1M,on=left", "mem:1M,on=right"],
        virtio_blk=["mem:1M"],
        fault=["read,on=left,nth=3:drop", "write:status=write-fault", "flush:delay=1ms"],
    )
    assert {config.id: [rule.text for rule in config.faults] for config in found} == {
        "left": ["read,on=left,nth=3:drop", "write:status=write-fault", "flush:delay=1ms"],
        "right": ["write:status=write-fault", "flush:delay=1ms"],
        "vda": ["flush:delay=1ms"],  # which has no write fault
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nvme": ["mem:1M"], "fault": ["raed:drop"]}, "did you mean read?"),
        ({"nvme": ["mem:1M"], "fault": ["read,on=x:drop"]}, "no controller x"),
        ({"virtio_blk": ["mem:1M"], "fault": ["read:status=unc"]}, "known: ioerr, unsupp"),
        ({"nvme": ["mem:1M"], "fault": ["@nowhere.toml"]}, "nowhere.toml: No such file"),
        (
            {"ide": ["mem:1M"], "nvme": ["mem:1M"], "fault": ["read,nsid=1:satus=abrt"]},
            "did you mean status?",
        ),
        ({"ide": ["mem:1M"], "fault": ["read:duplicate"]}, "what there is for ata commands"),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(Exception) as caught:
        parse(**options)
    known = told(caught.value)
    assert known is not None
    assert message in f"{known} {known.hint}"
    assert "\n" not in str(known)


BUILDS: dict[str, Any] = {
    "nvme": nvme.KIND.serve,
    "ide": ide.KIND.serve,
    "ahci": sata.KIND.serve,
    "virtio-blk": virtio_blk.PCI.serve,
    "scsi": scsi.PCI.serve,
}


def made(
    engine: Engine, kind: str, *faults: str, disk: str = "mem:1M"
) -> tuple[PciFunction, Places[Any], FaultDesk, Mapping[str, Observed]]:
    name = f"{kind}-pci" if kind in ("virtio-blk", "scsi") else kind
    [config] = parse(**{name: [disk], "fault": list(faults)})
    server = BUILDS[kind]
    function, places, desk = server.make(config, GuestMemory.of_size(1 << 20), engine)
    return function, places, desk, server.inside.parts(function, places)


@pytest.mark.parametrize("kind", BUILDS)
def test_rules_come_and_go_on_every_kind(kind: str, engine: Engine) -> None:
    _, places, desk, parts = made(engine, kind, "read,nth=3:drop")
    observed: Any = next(iter(parts.values()))
    assert observed.observer is not None
    desk.add("flush:die")
    assert desk.rules() == {"read,nth=3:drop": 0, "flush:die": 0}
    assert desk.release() == 0
    with pytest.raises(DiskOpenError, match="expected a command"):
        desk.add("raed:drop")
    desk.clear()
    assert observed.observer is None
    assert desk.rules() == {}
    for disk in places.disks:
        disk.close()


def test_what_cannot_be_taken_away_is_said(engine: Engine) -> None:
    with pytest.raises(CliError, match="nothing can be taken away"):
        made(engine, "virtio-blk", "read:remove")
    _, places, desk, _ = made(engine, "virtio-blk")
    with pytest.raises(DiskOpenError, match="nothing can be taken away"):
        desk.add("read:remove")
    for disk in places.disks:
        disk.close()


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("nvme", Subject("nvme", "READ", queue=1, nsid=1)),
        ("ahci", Subject("ahci", "READ_DMA", queue=0)),
        ("ide", Subject("ide", "READ_DMA", queue=0)),
        ("scsi", Subject("scsi", "READ_10", queue=0)),
    ],
)
def test_what_is_taken_away_is_closed(
    kind: str, subject: Subject, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, places, desk, _ = made(engine, kind, "read,nth=1:remove")
    [disk] = places.disks
    closed: list[bool] = []
    monkeypatch.setattr(disk, "close", lambda: closed.append(True))
    torment: Any = desk._torment
    for _ in range(2):  # the second time it is gone already
        torment.remove(subject)
    assert engine.run_until(lambda: bool(closed))
    assert not places.slots


def test_a_disc_is_taken_from_its_drive(engine: Engine, tmp_path: Path) -> None:
    image = tmp_path / "disc.iso"
    image.write_bytes(bytes(1 << 20))
    _, places, desk, _ = made(engine, "ide", "read,nth=1:remove", disk=f"file:{image},dvd")
    dvd = places.slots["p0"].dvd
    assert dvd is not None
    torment: Any = desk._torment
    torment.remove(Subject("ide", "READ_10", queue=0))
    assert dvd.disk is None
    assert "p0" in places.slots


def test_a_drive_that_comes_later_has_the_rules_too(engine: Engine) -> None:
    _, places, _, _ = made(engine, "ahci", "read:drop")
    [config] = parse(ahci=["mem:1M,port=4"])
    ended: list[Callable[[], None]] = []
    engine.start(places.add(config.disks[0]), lambda value, error: ended.append(value))
    assert engine.run_until(lambda: bool(ended))
    part: Any = places.slots["4"].part
    assert part.observer is not None
    for disk in places.disks:
        disk.close()


def test_the_numbers_of_places() -> None:
    assert [port_of(place) for place in ("0", "17", "p0", "p1", "s0", "s1")] == [0, 17, 0, 1, 2, 3]


def test_nvme_pays_nothing_without_rules(engine: Engine) -> None:
    function, places, desk, _ = made(engine, "nvme")
    assert isinstance(function, Nvme)
    assert function.controller.observer is None
    assert desk.rules() == {}
    for disk in places.disks:
        disk.close()
