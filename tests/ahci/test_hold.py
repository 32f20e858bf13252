"""A drive that is held begins no command, and forgets none."""

from __future__ import annotations

from drivebay.ata.disk import AtaDisk
from drivebay.platform.engine import Engine
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .support import Bench

MIB = 1 << 20


def held_bench(make_bench: MakeBench, engine: Engine) -> tuple[Bench, AtaDisk]:
    drive = AtaDisk(filled(MIB, 1), engine)
    return make_bench({0: drive}), drive


def test_what_comes_meanwhile_is_done_later(make_bench: MakeBench, engine: Engine) -> None:
    bench, drive = held_bench(make_bench, engine)
    disk = bench.driver(polled=True).disk(0)
    drive.hold(True)
    for tag in range(4):
        disk.prepare_write(tag, 8 * tag, noise(4096, tag))
    disk.port.issue(0xF, queued=True)
    for _ in range(4):
        engine.turn(0)
    assert bench.port().ci == bench.port().sact == 0xF
    assert content(drive.disk) == noise(MIB, 1)
    drive.hold(False)
    disk.port.finish(0xF)
    assert content(drive.disk)[: 4 * 4096] == b"".join(noise(4096, tag) for tag in range(4))


def test_the_guest_may_give_it_up(make_bench: MakeBench, engine: Engine) -> None:
    """Section 10.4: the list is stopped while the drive is busy."""
    bench, drive = held_bench(make_bench, engine)
    disk = bench.driver(polled=True).disk(0)
    drive.hold(True)
    disk.prepare_write(0, 0, noise(4096, 0))
    disk.port.issue(1, queued=True)
    engine.turn(0)
    disk.port.restart()
    drive.hold(False)
    engine.turn(0)
    assert content(drive.disk) == noise(MIB, 1)
    assert disk.read(8, 8) == noise(MIB, 1)[4096:8192]


def test_another_controller_goes_on_with_it(make_bench: MakeBench, engine: Engine) -> None:
    bench, drive = held_bench(make_bench, engine)
    driver = bench.driver(polled=True)
    disk = driver.disk(0)
    drive.hold(True)
    disk.prepare_read(0, 8, 8)
    disk.port.issue(1, queued=True)
    bench = bench.replaced({0: AtaDisk(drive.disk, engine)})
    driver.mmio = bench.mmio
    disk.port.finish(1)
    assert disk.taken(0, 4096) == noise(MIB, 1)[4096:8192]
