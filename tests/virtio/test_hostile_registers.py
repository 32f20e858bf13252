"""Registers in the hands of guests that break the rules: hostile.md 2.4 and 4.1."""

from __future__ import annotations

import random

import pytest

from drivebay.controllers.virtio.mmio import MMIO_SIZE
from drivebay.controllers.virtio.registers import MMIO_CONFIG, BlockConfig, MmioRegisters
from drivebay.platform.virtio import DeviceStatus

from .bench import BASE, OK, SPLIT, MakeBench

WRITABLE_CONFIG = 32
VALUES = {"zeroes": 0, "ones": (1 << 64) - 1, "a bit": 1 << 31, "noise": 0x9E3779B97F4A7C15}
NAMES = list(MmioRegisters.registers)


@pytest.mark.parametrize("live", [False, True], ids=["before", "running"])
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_offset_takes_every_width(bench: MakeBench, width: int, live: bool) -> None:
    """Aligned or not, any value, with and without a driver at work; also past the block's end."""
    b = bench()
    with b.survives():
        if live:
            b.driver(features=SPLIT)
        for value in VALUES.values():
            for offset in range(-8, MMIO_SIZE + 8):
                b.space.write(BASE + offset, width, value & ((1 << 8 * width) - 1))
                assert 0 <= b.space.read(BASE + offset, width) < 1 << 8 * width


def test_random_accesses_do_no_harm(bench: MakeBench) -> None:
    """By the registers' own offsets half of the time, so that they mean something."""
    b = bench()
    dice = random.Random(4)
    offsets = [at.offset for at in MmioRegisters.registers.values()]
    with b.survives(seconds=10):
        for _ in range(100_000):
            offset = dice.choice(offsets) if dice.random() < 0.5 else dice.randrange(MMIO_SIZE)
            width = 4 if dice.random() < 0.7 else dice.choice((1, 2, 8))
            if dice.random() < 0.5:
                b.space.read(BASE + offset, width)
            else:
                small = dice.random() < 0.5
                value = dice.getrandbits(4) if small else dice.getrandbits(8 * width)
                b.space.write(BASE + offset, width, value & ((1 << 8 * width) - 1))


@pytest.mark.parametrize("selector", ["QueueSel", "DeviceFeaturesSel", "DriverFeaturesSel"])
def test_every_value_of_a_selector(bench: MakeBench, selector: str) -> None:
    """cloud-hypervisor 7917 used one as an index. 65 536 values and the edges of 32 bits."""
    b = bench(queues=3)
    with b.survives(seconds=5):
        driver = b.driver(features=SPLIT)
        features = [_word(b.device.features, n) for n in range(2)]
        for value in [*range(0x10000), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]:
            driver.set(selector, value)
            if selector == "QueueSel":
                driver.set("QueueNum", 8)
                driver.set("QueueDescHigh", 0xFFFFFFFF)
                assert (driver.get("QueueNumMax") != 0) == (value < 3)
                assert driver.get("QueueReady") == (value < 3)
                if value >= 3:
                    driver.set("QueueReady", 1)
            else:
                driver.set("DriverFeatures", 0xFFFFFFFF)
                offered = driver.get("DeviceFeatures")
                if selector == "DeviceFeaturesSel":
                    assert offered == (features[value] if value < 2 else 0)
        driver.set("QueueSel", 0)
        assert driver.read(0, 512) == bytes(512)


def _word(features: int, n: int) -> int:
    return features >> 32 * n & 0xFFFFFFFF


@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_register_stays_as_it_is(bench: MakeBench, name: str) -> None:
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        if not hasattr(b.transport, f"write_{name}"):
            before = driver.get(name)
            for value in VALUES.values():
                driver.set(name, value & 0xFFFFFFFF)
            assert driver.get(name) == before
        elif not hasattr(b.transport, f"read_{name}"):
            assert driver.get(name) == 0


@pytest.mark.parametrize("value", [0, 257, 512, 0x10000, 0xFFFFFFFF])
def test_a_queue_size_out_of_range_is_not_taken(bench: MakeBench, value: int) -> None:
    """CVE-2026-50626."""
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        driver.set("QueueReady", 0)
        driver.set("QueueNum", value)
        driver.set("QueueReady", 1)
        assert b.device._runners[0].queue.size == 256


# -- the configuration space -----------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_only_writeback_can_be_written(bench: MakeBench, width: int) -> None:
    """Firecracker 80fb45d04: every byte of it, at every width and every alignment."""
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        before = driver.config
        for offset in range(MMIO_SIZE - MMIO_CONFIG):
            b.space.write(BASE + MMIO_CONFIG + offset, width, (1 << 8 * width) - 1)
            covered = offset <= WRITABLE_CONFIG < offset + width
            after = driver.config
            assert after.writeback == covered
            after.writeback = before.writeback
            assert after == before
            driver.write_config(WRITABLE_CONFIG, 0)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_the_configuration_reads_the_same_in_any_pieces(bench: MakeBench, width: int) -> None:
    """And zero behind its end."""
    b = bench()
    expected = b.device.read_config() + bytes(MMIO_SIZE)
    for offset in range(MMIO_SIZE - MMIO_CONFIG - width + 1):
        value = b.space.read(BASE + MMIO_CONFIG + offset, width)
        assert value.to_bytes(width, "little") == expected[offset : offset + width]
    assert BlockConfig.size < MMIO_SIZE - MMIO_CONFIG


# -- status ----------------------------------------------------------------------------------------


def test_driver_ok_twice_starts_once(bench: MakeBench) -> None:
    """Firecracker 42fae6961."""
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        runner = b.device._runners[0]
        for _ in range(3):
            guest.driver.set("Status", guest.driver.get("Status"))
        guest.driver.set("QueueReady", 1)
        assert b.device._runners == {0: runner}
        assert guest.ask(guest.request(0, room=512)) == OK


@pytest.mark.parametrize("value", [1, 2, 3, 4, 8, 7, 11, 0x40, 0xB0, 0xFF, 0xFFFFFFFF])
def test_status_never_goes_backwards(bench: MakeBench, value: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        guest.driver.set("Status", value)
        assert guest.driver.get("Status") == 0xF | value & 0xB0
        assert guest.ask(guest.request(0, room=512)) == OK


@pytest.mark.parametrize("value", [0, 0x100, 0xFFFFFF00])
def test_a_status_of_zero_in_its_eight_bits_is_a_reset(bench: MakeBench, value: int) -> None:
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        driver.set("Status", value)
        assert driver.get("Status") == 0
        assert not b.device._runners


@pytest.mark.parametrize("status", range(1, 16))
def test_a_queue_runs_only_when_features_and_driver_are_ok(bench: MakeBench, status: int) -> None:
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        addresses = driver.ring().addresses
        driver.reset()
        driver.set("Status", status)
        for area, address in zip(("Desc", "Driver", "Device"), addresses, strict=True):
            driver.set(f"Queue{area}Low", address)
        driver.set("QueueReady", 1)
        flags = DeviceStatus(status)
        assert bool(b.device._runners) == (flags.FEATURES_OK and flags.DRIVER_OK)
        assert b.needs_reset == (flags.DRIVER_OK and not flags.FEATURES_OK)


@pytest.mark.parametrize("bit", [0, 3, 7, 12, 24, 26, 27, 30, 31, 33, 35, 40, 63])
def test_a_feature_that_was_not_offered_is_refused(bench: MakeBench, bit: int) -> None:
    b = bench()
    with b.survives():
        driver = b.driver(features=SPLIT)
        driver.reset()
        driver.set("Status", 3)
        for word in (0, 1):
            driver.set("DriverFeaturesSel", word)
            driver.set("DriverFeatures", _word(1 << bit, word))
        driver.set("Status", 11)
        assert not driver.status.FEATURES_OK


def test_features_cannot_change_once_they_are_ok(bench: MakeBench) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        for word in (0, 1):
            guest.driver.set("DriverFeaturesSel", word)
            guest.driver.set("DriverFeatures", 0xFFFFFFFF)
        guest.driver.set("Status", 0xFF)
        assert guest.ask(guest.request(0, room=512)) == OK
        assert b.device._features == guest.driver.features


@pytest.mark.parametrize("value", [0, 1, 2, 4, 0xFFFFFFFF])
def test_an_acknowledgement_clears_what_it_names(bench: MakeBench, value: int) -> None:
    b = bench()
    with b.survives():
        guest = b.guest(features=SPLIT)
        guest.driver.ring().want_interrupt()
        guest.send(guest.request(0, room=512).chain)
        assert guest.driver.get("InterruptStatus") == 1
        guest.driver.set("InterruptACK", value)
        assert b.line.level is not bool(value & 1)


def test_a_device_that_is_not_there_reads_all_ones(bench: MakeBench) -> None:
    b = bench()
    assert b.space.read(BASE - 4, 4) == 0xFFFFFFFF
    assert b.space.read(BASE + MMIO_SIZE - 2, 4) == 0xFFFFFFFF
