"""What a Linux guest does to a controller is recorded, and replayed without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivebay.cli.backend import Backend
from drivebay.cli.recording import replay
from drivebay.guests.linux import LinuxGuest
from drivebay.lab.replay import Recording

SECONDS = 30 if "DRIVEBAY_NIGHTLY" in os.environ else 2

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

FIO = (
    "fio --name=v --filename={} --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bs=4k"
    " --size=8M --verify=crc32c --time_based --runtime={} | grep err="
)


@pytest.mark.parametrize(
    ("option", "module", "disk"),
    [
        ("--nvme", "nvme", "/dev/nvme0n1"),
        ("--ahci", "ahci", "/dev/sda"),
        ("--virtio-blk-pci", "virtio_blk", "/dev/vda"),
        ("--scsi-pci", "virtio_scsi", "/dev/sda"),
    ],
    ids=["nvme", "ahci", "virtio-blk", "virtio-scsi"],
)
def test_a_recorded_guest(tmp_path: Path, option: str, module: str, disk: str) -> None:
    image, path = tmp_path / "disk.img", tmp_path / "guest.dbreplay"
    serve = [option, f"file:{image};create=64M", "--record", str(path)]
    with (
        Backend(serve) as backend,
        LinuxGuest(tools=["fio"], qemu_args=backend.qemu_arguments()) as guest,
    ):
        until_there = f"modprobe {module}; until [ -b {disk} ]; do sleep .1; done; "
        said = guest.run(until_there + FIO.format(disk, SECONDS), timeout=400)
        assert "err= 0" in said.output, said.output
    assert replay(Recording(path)) > 1000
