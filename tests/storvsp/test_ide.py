"""The IDE accelerator: drive and channel are one disk (openvmm.md section 8.10)."""

from __future__ import annotations

import uuid

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.storvsp import build_ide
from drivebay.controllers.storvsp.ide import IDE, IdeOffer
from drivebay.controllers.storvsp.protocol import SrbCode
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.storvsc import StorVsc
from drivebay.platform.engine import Engine
from tests.disk.support import noise
from tests.ide.support import Bench as IdeBench

from .support import Bench


def test_one_disk_two_ways() -> None:
    disk = RamDisk(1 << 20)
    bench = Bench({})
    ide = IdeBench(bench.engine, {(0, 0): AtaDisk(disk, bench.engine)})
    ide.enable()
    build_ide(disk, bench.memory, bench.engine, 0, 0).attach(bench.bus)
    bench.guest.connect()
    (offer,) = bench.guest.find(IDE)
    driver = StorVsc(bench.guest, offer, bench.arena)
    driver.run(bytes(6))  # it has been switched on
    fast, slow = noise(4096, 1), noise(4096, 2)
    driver.write(8, fast)
    drive = ide.driver().disk(0, 0)
    assert drive.read(8, 8) == fast
    drive.write(16, slow)
    assert driver.read(16, 8) == slow
    assert driver.most_sub_channels == 0


@pytest.mark.parametrize(("channel", "device"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_which_drive_it_is(channel: int, device: int) -> None:
    bench = Bench({})
    build_ide(RamDisk(1 << 20), bench.memory, bench.engine, channel, device).attach(bench.bus)
    bench.guest.connect()
    (offer,) = bench.guest.find(IDE)
    instance = uuid.UUID(f"0000000{channel}-000{device}-8899-0000-000000000000")
    assert offer.instance_id == instance.bytes_le
    assert IdeOffer.unpack(offer.user_data) == IdeOffer(path_id=channel, target_id=device)
    assert offer.user_data[:24] == bytes([0, 0, channel, device, 0, 0, 0, 0, 2, *bytes(15)])
    driver = StorVsc(bench.guest, offer, bench.arena)
    driver.run(bytes(6))
    for path, target in ((channel, device), (7, 0), (0, 9)):
        ended, _ = driver.run(bytes(6), fields={"path_id": path, "target_id": target})
        assert ended.code == SrbCode.SUCCESS, "whatever the guest calls it"
    assert driver.run(bytes(6), lun=1)[0].code == SrbCode.INVALID_LUN


@pytest.mark.parametrize(("channel", "device"), [(2, 0), (0, 2), (-1, 0)])
def test_drives_that_there_cannot_be(channel: int, device: int) -> None:
    bench = Bench({})
    with pytest.raises(ValueError, match="IDE channel"):
        build_ide(RamDisk(1 << 20), bench.memory, Engine(workers=0), channel, device)
