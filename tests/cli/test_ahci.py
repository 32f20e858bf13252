"""--ahci: what the command line says of SATA drives."""

from __future__ import annotations

import json

import pytest

from drivebay.cli.controllers import check_servable
from drivebay.cli.errors import told
from drivebay.cli.frontends import bootable
from drivebay.cli.sata import SataDrive

from .support import parse


def drives(*texts: str) -> list[SataDrive]:
    [controller] = parse(ahci=texts)
    check_servable([controller])
    return controller.disks


def test_drives_take_the_first_ports_that_are_free() -> None:
    found = drives("mem:1M", "mem:2M,port=0", "mem:3M,port=7,dvd", "mem:4M")
    assert [(drive.place, drive.attachment.disk.text) for drive in found] == [
        (0, "mem:2M"),
        (1, "mem:1M"),
        (2, "mem:4M"),
        (7, "mem:3M"),
    ]
    assert [drive.name for drive in found] == ["sata0", "sata1", "sata2", "sata7"]


def test_two_adapters_by_name() -> None:
    found = parse(
        controller=["ahci,id=left", "ahci,id=right"],
        disk=["mem:1M,on=left,port=3", "mem:2M,on=right"],
    )
    assert [[drive.place for drive in each.disks] for each in found] == [[3], [0]]


def test_qemu_attaches_by_vfio_user() -> None:
    [controller] = parse(ahci=["mem:1M"])
    assert "vfio-user-pci" in controller.kind.qemu(controller, "/tmp/a,b.sock")[1]


def test_firmware_tries_controllers_in_their_order() -> None:
    found = parse(virtio_blk=["mem:1M"], ahci=["mem:1M"])
    words = bootable([word for each in found for word in each.kind.qemu(each, "/tmp/a.sock")])
    devices = [words[at + 1] for at, word in enumerate(words) if word == "-device"]
    assert devices[0].endswith(",bootindex=100")
    assert json.loads(devices[1])["bootindex"] == 101


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["mem:1M,port=32"], "port=32"),
        (["mem:1M,port=x"], "port=x"),
        (["mem:1M,port=1", "mem:2M,port=1"], "port 1 taken by mem:1M,port=1"),
        (["mem:1M"] * 33, "33 SATA drives"),
        (["mem:1M,id=a", "mem:1M,id=a"], "two drives have the id a"),
        (["mem:1M,p"], "expected one of ro, dvd"),
        (["mem:1M,on-error=stop"], "not ours to stop"),
        (["mem:1M,serial=" + 21 * "x"], "too long"),
    ],
)
def test_a_mistake_is_one_line(texts: list[str], message: str) -> None:
    with pytest.raises(Exception) as caught:
        drives(*texts)
    known = told(caught.value)
    assert known is not None
    assert message in str(known)
    assert "\n" not in str(known)
