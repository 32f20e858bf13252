"""--scsi: what the command line says of logical units."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.cli.controllers import check_servable
from drivebay.cli.errors import CliError, told
from drivebay.cli.kind import ControllerConfig, Served
from drivebay.cli.scsi import qemu, serve
from drivebay.platform.engine import Engine
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.dvd import Dvd
from drivebay.scsi.target import Target

from .support import parse


def controller(*texts: str) -> ControllerConfig:
    [found] = parse(scsi=texts)
    check_servable([found])
    return found


@contextlib.contextmanager
def served(tmp_path: Path, *texts: str) -> Iterator[Served]:
    engine = Engine(workers=0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        found = serve(controller(*texts), engine, listener)
        yield found
        found.server.close()
        for slot in found.places.slots.values():
            if slot.disk is not None:
                slot.disk.close()
        engine.close()


def test_units_take_the_first_luns_that_are_free() -> None:
    found = controller("mem:1M", "mem:2M,lun=0,ro", "mem:3M,lun=300", "mem:4M")
    assert [(each.place, each.attachment.disk.text) for each in found.disks] == [
        (0, "mem:2M"),
        (1, "mem:1M"),
        (2, "mem:4M"),
        (300, "mem:3M"),
    ]


def test_qemu_attaches_it_by_vhost_user() -> None:
    [found] = parse(controller=["scsi,id=a,queues=4,queue-size=64"], disk=["mem:1M,on=a"])
    assert qemu(found, "/tmp/a,b")[1::2] == [
        "socket,id=a,path=/tmp/a,,b,reconnect-ms=100",
        "vhost-user-scsi-pci,chardev=a,num_queues=4,virtqueue_size=64",
    ]


def test_units_are_what_was_said_and_have_names_of_their_own(tmp_path: Path) -> None:
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(1 << 16))
    texts = ["mem:1M,vendor=ACME,product=Anvil,serial=7", "mem:1M", "mem:1M,ro", f"iso:{disc},dvd"]
    with served(tmp_path, *texts, "prwrap:mem:1M") as found:
        [target] = found.places.devices
        assert isinstance(target, Target)
        units = [target.unit(lun) for lun in target.luns]
        disks = [unit for unit in units if isinstance(unit, ScsiDisk)]
        assert [isinstance(unit, Dvd) for unit in units] == [False] * 3 + [True, False]
        first = disks[0].identity
        assert (first.vendor, first.product, first.serial) == ("ACME", "Anvil", "7")
        assert len({unit.identity.serial for unit in disks}) == 4
        assert [disk.disk.read_only for disk in disks] == [False, False, True, False]
        assert [disk.nexus is not None for disk in disks] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["mem:1M,lun=16384"], "lun=16384"),
        (["mem:1M,lun=-1"], "lun=-1"),
        (["mem:1M,lun=1", "mem:2M,lun=1"], "lun 1 taken"),
        (["mem:1M,vendor=ninechars"], "vendor=ninechars"),
        (["mem:1M,serial=\N{BLACK HEART SUIT}"], "serial"),
    ],
)
def test_units_that_cannot_be(texts: list[str], what: str) -> None:
    with pytest.raises(CliError, match=what):
        controller(*texts)


@pytest.mark.parametrize("text", ["mem:1000,dvd", "mem:0"])
def test_disks_that_no_unit_can_hold(tmp_path: Path, text: str) -> None:
    with pytest.raises(Exception) as caught, served(tmp_path, text):
        pass
    assert told(caught.value) is not None
