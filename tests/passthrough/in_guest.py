"""Run inside a Linux guest: our drive over its libata, ``/dev/sg0``; see test_guest.py.

What it answers to `read_only` is recorded in a file. A check that fails raises.
"""

from __future__ import annotations

import sys

from drivebay.ata.passthrough import PassthroughDrive, Policy, Recorder, Transport, identify
from drivebay.disk.backends.sg import SgDevice
from drivebay.drivers.ahci import AhciError
from drivebay.drivers.ide import By, IdeError, Via
from drivebay.platform.engine import Engine
from tests.ahci.support import Bench as AhciBench
from tests.ide.support import Bench as IdeBench
from tests.ide.support import noise

SECTORS = 32 << 11
SEED = 38


def main(path: str, tape: str) -> None:
    image = noise(1 << 20, SEED)
    engine = Engine(workers=0)
    with SgDevice(path) as device:
        with open(tape, "w") as lines:
            read_only(engine, Recorder(device, lines.write), image)
        writing(engine, device, image)
        by_fis(engine, device)
        short_cdbs(engine, device, image)
    print("all is well")


def read_only(engine: Engine, device: Transport, image: bytes) -> None:
    drive = PassthroughDrive(device, engine, identify(device))
    bench = IdeBench(engine, {(0, 0): drive})
    bench.enable()
    disk = bench.driver().disk(0, 0)
    identity = disk.identify()
    assert identity.serial == "SCRATCH", identity.serial
    assert identity.words.queue_depth_z == 0
    assert disk.sectors == SECTORS
    for via in (Via.PIO, Via.DMA):
        for by in (By.LBA28, By.LBA48):
            assert disk.read(3, 2, via, by) == image[3 * 512 : 5 * 512], (via, by)
    assert disk.read_native_max() == SECTORS - 1
    assert disk.read_native_max(ext=False) == SECTORS - 1
    assert disk.check_power_mode() == 0xFF
    assert not disk.smart_failing()
    disk.flush()
    disk.verify(100, 7)
    for refused in (
        lambda: disk.write(0, bytes(512), Via.PIO),
        lambda: disk.write(0, bytes(512), Via.DMA),
        lambda: disk.write_cache(False),
        lambda: disk.trim([(0, 8)]),
    ):
        fails(refused)
    for via in (Via.PIO, Via.DMA):
        fails(lambda via=via: disk.read(SECTORS, 1, via, By.LBA48))
    assert disk.read(3, 1) == image[3 * 512 : 4 * 512]


def writing(engine: Engine, device: SgDevice, image: bytes) -> None:
    drive = PassthroughDrive(device, engine, identify(device), Policy.of("write", "settings"))
    bench = IdeBench(engine, {(1, 1): drive})
    bench.enable()
    disk = bench.driver().disk(1, 1)
    for at, via in ((4096, Via.PIO), (4200, Via.DMA)):
        disk.write(at, noise(20480, at), via)
        assert disk.read(at, 40, Via.DMA) == noise(20480, at)
    assert disk.read(0, 200) == image[: 200 * 512]
    disk.set_multiple(16)
    assert disk.read(4096, 40, Via.MULTIPLE) == noise(20480, 4096)
    disk.write_cache(True)
    fails(lambda: disk.trim([(0, 8)]))


def by_fis(engine: Engine, device: SgDevice) -> None:
    most = device.max_transfer
    assert most is not None and most < 1 << 20  # libata takes the disk for one behind a bridge
    policy = Policy.of("write")
    drive = PassthroughDrive(device, engine, identify(device), policy, max_transfer=most)
    bench = AhciBench(engine, {0: drive})
    bench.enable()
    disk = bench.driver().disk(0)
    disk.write(5000, noise(most, 1))
    assert disk.read(5000, most // 512) == noise(most, 1)
    disk.flush()
    try:
        disk.read(5000, most // 512 + 1)
    except AhciError as error:
        assert error.error.ABRT
    else:
        raise AssertionError("it did not fail")
    disk.port.restart()
    assert disk.read(5000, 1) == noise(most, 1)[:512]


def short_cdbs(engine: Engine, device: SgDevice, image: bytes) -> None:
    data = identify(device, short=True)
    bench = IdeBench(engine, {(0, 0): PassthroughDrive(device, engine, data, short=True)})
    bench.enable()
    disk = bench.driver().disk(0, 0)
    assert disk.read(7, 1, Via.DMA, By.LBA28) == image[7 * 512 : 8 * 512]


def fails(call: object) -> None:
    assert callable(call)
    try:
        call()
    except IdeError as error:
        assert error.error, error
    else:
        raise AssertionError("it did not fail")


if __name__ == "__main__":
    main(*sys.argv[1:])
