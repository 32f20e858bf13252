"""One register block for drivers of both times (virtio 1.2 section 4.2.4)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.legacy import TransitionalTransport
from drivebay.controllers.virtio.mmio import MMIO_SIZE
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.virtio_blk import VirtioBlk
from drivebay.platform.engine import Engine
from drivebay.platform.interrupts import Line
from drivebay.platform.memory import GuestMemory
from drivebay.platform.mmio import MmioSpace
from drivebay.platform.virtio import DeviceStatus

from .bench import ALL, BASE, RAM_SIZE, RAM_START
from .legacy_driver import LEGACY_REGISTERS, PAGE, EarlyVirtioBlk, LegacyVirtioBlk, Pages

DRIVERS: dict[str, Callable[..., VirtioBlk]] = {
    "modern": VirtioBlk,
    "legacy": LegacyVirtioBlk,
    "early": EarlyVirtioBlk,
}


class LegacyBench:
    """A block device behind a transport that shows `version`."""

    def __init__(self, engine: Engine, version: int) -> None:
        self.engine = engine
        self.memory = GuestMemory.of_size(RAM_SIZE, RAM_START)
        self.levels: list[bool] = []
        self.device = BlockDevice(RamDisk(1 << 20), engine)
        self.transport = TransitionalTransport(
            self.device, self.memory, Line(self.levels.append), version=version
        )
        self.space = MmioSpace()
        self.space.map(BASE, self.transport)

    def driver(self, kind: Callable[..., VirtioBlk]) -> VirtioBlk:
        arena = Pages(self.memory, RAM_START, RAM_SIZE)
        return kind(self.space, BASE, arena, poll=lambda: self.engine.turn(0.01))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", DRIVERS)
def test_a_driver_of_any_time_reads_and_writes(engine: Engine, name: str, version: int) -> None:
    if (name, version) == ("modern", 1):
        pytest.skip("it asks for version 2")
    bench = LegacyBench(engine, version)
    driver = bench.driver(DRIVERS[name])
    for sector in range(4):
        driver.write(sector, bytes([sector + 1]) * 512)
    assert driver.read(0, 2048) == b"".join(bytes([n + 1]) * 512 for n in range(4))
    driver.flush()
    assert True in bench.levels


def test_the_next_driver_may_be_of_another_time(engine: Engine) -> None:
    bench = LegacyBench(engine, 2)
    bench.driver(LegacyVirtioBlk).write(0, b"old".ljust(512))
    assert bench.driver(VirtioBlk).read(0, 512) == b"old".ljust(512)
    assert bench.driver(EarlyVirtioBlk).read(0, 512) == b"old".ljust(512)


def test_the_legacy_interface_has_32_feature_bits(engine: Engine) -> None:
    bench = LegacyBench(engine, 1)
    driver = bench.driver(LegacyVirtioBlk)
    assert driver.get("Version") == 1
    driver.set("DeviceFeaturesSel", 1)
    assert driver.get("DeviceFeatures") == 0


def test_the_page_number_reads_back_until_it_is_taken_back(engine: Engine) -> None:
    bench = LegacyBench(engine, 1)
    driver = bench.driver(LegacyVirtioBlk)
    assert driver.get("QueuePFN") == driver.ring().addresses[0] // PAGE
    driver.set("QueuePFN", driver.get("QueuePFN") + 1)
    assert driver.get("QueuePFN") == driver.ring().addresses[0] // PAGE
    driver.set("QueuePFN", 0)
    assert driver.get("QueuePFN") == 0
    assert not bench.device._runners
    driver.reset()
    assert driver.get("QueuePFN") == 0


def test_a_ring_without_a_page_size_is_none(engine: Engine) -> None:
    bench = LegacyBench(engine, 1)
    bench.space.write(BASE + LEGACY_REGISTERS["QueuePFN"], 4, 7)
    assert bench.space.read(BASE + LEGACY_REGISTERS["QueuePFN"], 4) == 0


@pytest.mark.parametrize("size", [0, 3, 4097, 0xFFFFFFFF])
def test_sizes_that_are_no_power_of_two_are_not_taken(engine: Engine, size: int) -> None:
    bench = LegacyBench(engine, 1)
    for register in ("GuestPageSize", "QueueAlign"):
        bench.space.write(BASE + LEGACY_REGISTERS[register], 4, size)
    assert bench.transport._page_size == 0
    assert not bench.transport._aligns


def test_a_feature_that_was_not_offered_starts_nothing(engine: Engine) -> None:
    bench = LegacyBench(engine, 1)
    driver = bench.driver(LegacyVirtioBlk)
    address = driver.ring().addresses[0] // PAGE
    driver.reset()
    driver.set("GuestPageSize", PAGE)
    driver.set("DriverFeatures", 1 << 31)
    driver.set("QueuePFN", address)
    driver.set("Status", 7)
    assert driver.status.DEVICE_NEEDS_RESET
    assert not bench.device._runners


def test_a_ring_beyond_memory_needs_a_reset(engine: Engine) -> None:
    bench = LegacyBench(engine, 1)
    driver = bench.driver(LegacyVirtioBlk)
    driver.reset()
    driver.set("GuestPageSize", 1 << 31)
    driver.set("QueuePFN", 0xFFFFFFFF)
    assert DeviceStatus(driver.get("Status")).DEVICE_NEEDS_RESET
    assert bench.driver(LegacyVirtioBlk).read(0, 512) == bytes(512)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_offset_takes_every_width(engine: Engine, width: int) -> None:
    """hostile.md 4.1."""
    bench = LegacyBench(engine, 1)
    bench.driver(LegacyVirtioBlk)
    for value in (0, 1, 0x1000, ALL):
        for offset in range(MMIO_SIZE):
            bench.space.write(BASE + offset, width, value & ((1 << 8 * width) - 1))
            assert 0 <= bench.space.read(BASE + offset, width) < 1 << 8 * width
    assert bench.driver(LegacyVirtioBlk).read(0, 512) == bytes(512)


def test_a_reset_by_the_machine_says_when_it_is_done(engine: Engine) -> None:
    bench = LegacyBench(engine, 2)
    bench.driver(VirtioBlk)
    done: list[bool] = []
    bench.transport.reset(lambda: done.append(True))
    assert engine.run_until(lambda: bool(done))
    assert bench.transport.read_Status() == 0
    assert not bench.device._runners
