"""The block device through its registers and rings, as a guest drives it."""

from __future__ import annotations

import os

import pytest

from drivebay.controllers.virtio.registers import BlockFeature
from drivebay.drivers.virtio_blk import DeviceError

from .bench import MakeBench
from .bench import every_transport as transport

__all__ = ["transport"]  # a fixture


def test_what_is_written_is_read_back(bench: MakeBench, features: int) -> None:
    driver = bench().driver(features=features)
    for round_ in range(300):  # the rings wrap
        data = os.urandom(1024)
        driver.write(round_ % 100, data)
        assert driver.read(round_ % 100, 1024) == data
    driver.flush()


def test_identity(bench: MakeBench, features: int) -> None:
    assert bench(serial="SN-1").driver(features=features).identity() == "SN-1"


def test_discard_and_write_zeroes(bench: MakeBench, features: int) -> None:
    driver = bench().driver(features=features)
    driver.write(0, b"\xaa" * 8192)
    driver.discard([(1, 1), (4, 2)])
    driver.write_zeroes([(8, 1), (10, 1)], unmap=True)
    got = driver.read(0, 8192)
    zero = [n for n in range(16) if got[512 * n : 512 * n + 512] == bytes(512)]
    assert zero == [1, 4, 5, 8, 10]


def test_past_the_end_is_an_io_error(bench: MakeBench, features: int) -> None:
    driver = bench().driver(features=features)
    capacity = driver.config.capacity
    with pytest.raises(DeviceError) as caught:
        driver.read(capacity, 512)
    assert caught.value.status == 1
    driver.read(capacity - 1, 512)


def test_resize_changes_the_configuration_and_interrupts(bench: MakeBench) -> None:
    import drivebay.suspend as suspend

    b = bench()
    driver = b.driver()
    before = driver.config.capacity
    suspend.run(b.disk.resize(2 * b.disk.sector_count))
    assert driver.get("InterruptStatus") == 2
    assert driver.config.capacity == 2 * before


def test_writeback_can_be_switched(bench: MakeBench) -> None:
    b = bench()
    driver = b.driver()
    assert driver.has(BlockFeature.CONFIG_WCE)
    driver.write_config(32, 1)
    assert b.device.writeback
    driver.write_config(32, 0)
    assert not b.device.writeback
