"""What a device offers and says of its disk, and what the driver's choices mean."""

from __future__ import annotations

import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.registers import BlockFeature, RingFeature
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk, Unmap
from drivebay.drivers.virtio_blk import DeviceError
from drivebay.drivers.virtio_driver import RegisterDriver
from drivebay.platform.engine import Engine
from drivebay.suspend import run
from drivebay.testing import PuppetDisk, RecordingDisk

from .bench import ALL, IOERR, OK, SPLIT, MakeBench
from .bench import every_transport as transport

__all__ = ["transport"]  # a fixture

FLUSH, CONFIG_WCE = 1 << BlockFeature.FLUSH, 1 << BlockFeature.CONFIG_WCE
VERSION_1 = 1 << RingFeature.VERSION_1
WRITEBACK = 32


def cached() -> RecordingDisk:
    """A disk that may lose what was not flushed, and remembers what it was asked."""
    disk = RecordingDisk(RamDisk(1 << 20))
    disk.volatile_cache = True
    return disk


def stable(disk: Disk) -> list[bool]:
    """Of each write so far, whether it had to be stable."""
    assert isinstance(disk, RecordingDisk)
    return [call.fua for call in disk.calls if call.name in ("write", "write_zeroes")]


# -- the write cache (sections 5.2.5.2 and 5.2.6.2) ------------------------------------------------


@pytest.mark.parametrize(
    "features, writeback",
    [
        pytest.param(ALL, True, id="flush and switch"),
        pytest.param(ALL & ~CONFIG_WCE, True, id="flush, no switch"),
        pytest.param(ALL & ~FLUSH & ~CONFIG_WCE, False, id="neither"),
        pytest.param(ALL & ~FLUSH, False, id="switch, no flush"),
    ],
)
def test_a_driver_that_cannot_flush_has_no_cache(
    bench: MakeBench, features: int, writeback: bool
) -> None:
    b = bench(cached())
    driver = b.driver(features=features)
    assert driver.config.writeback == writeback
    driver.write(0, bytes(512))
    driver.write_zeroes([(0, 1)])
    assert stable(b.disk) == [not writeback] * 2


def test_the_cache_is_switched_for_the_next_write(bench: MakeBench) -> None:
    b = bench(cached())
    driver = b.driver()
    for value, expected in ((0, 0), (1, 1), (2, 0), (0xFF, 1)):
        driver.write_config(WRITEBACK, value)
        assert driver.config.writeback == expected
        driver.write(0, bytes(512))
    assert stable(b.disk) == [True, False, True, False]


def test_a_switch_that_was_not_negotiated_does_nothing(bench: MakeBench) -> None:
    b = bench(cached())
    driver = b.driver(features=ALL & ~CONFIG_WCE)
    driver.write_config(WRITEBACK, 0)
    driver.write(0, bytes(512))
    assert stable(b.disk) == [False]


def test_firmware_that_cannot_flush_leaves_the_next_driver_its_cache(bench: MakeBench) -> None:
    """SeaBIOS drives the disk first; Linux then asks for the cache as it finds it."""
    b = bench(cached())
    b.driver(features=SPLIT & ~FLUSH & ~CONFIG_WCE).read(0, 512)
    assert b.driver().config.writeback == 1


def test_features_that_are_set_again_leave_the_switch_alone() -> None:
    """A front end that reconnects says them again; the driver behind it knows nothing of that."""
    engine = Engine(workers=0)
    device = BlockDevice(cached(), engine)
    device.set_features(device.features)
    device.write_config(WRITEBACK, b"\0")
    device.set_features(device.features)
    assert not device.writeback
    engine.close()


def test_a_disk_without_a_cache_says_so(bench: MakeBench) -> None:
    b = bench(RamDisk(1 << 20))
    assert b.driver().config.writeback == 0


# -- the disk's properties -------------------------------------------------------------------------


def test_a_read_only_disk_is_refused_politely(bench: MakeBench) -> None:
    b = bench(RamDisk(1 << 20, read_only=True))
    with b.survives():
        guest = b.guest()
        driver = guest.driver
        assert driver.has(BlockFeature.RO)
        assert not driver.has(BlockFeature.DISCARD)
        assert not driver.has(BlockFeature.WRITE_ZEROES)
        for kind in (1, 11, 13):
            assert guest.ask(guest.request(kind, 0, out=bytes(512))) == IOERR
        assert driver.read(0, 512) == bytes(512)
        driver.flush()


@pytest.mark.parametrize("unmap", Unmap)
def test_discard_is_offered_when_the_disk_heeds_it(bench: MakeBench, unmap: Unmap) -> None:
    disk = RamDisk(1 << 20)
    disk.unmap_behaviour = unmap
    driver = bench(disk).driver()
    heeds = unmap is not Unmap.IGNORED
    config = driver.config
    assert driver.has(BlockFeature.DISCARD) == heeds
    assert bool(config.max_discard_sectors and config.max_discard_seg) == heeds
    assert driver.has(BlockFeature.WRITE_ZEROES)
    assert config.write_zeroes_may_unmap == heeds


@pytest.mark.parametrize(
    "logical, physical", [(512, 512), (512, 4096), (4096, 4096), (65536, 65536)]
)
def test_block_size_and_topology(bench: MakeBench, logical: int, physical: int) -> None:
    disk = RamDisk(1 << 20, sector_size=logical)
    disk.physical_sector_size = physical
    driver = bench(disk).driver()
    config = driver.config
    assert config.capacity == 2048  # of 512 bytes, whatever the block size
    assert config.blk_size == logical
    assert logical << config.physical_block_exp == physical
    assert config.min_io_size * logical == physical
    assert config.alignment_offset == 0
    assert driver.has(BlockFeature.BLK_SIZE)
    assert driver.has(BlockFeature.TOPOLOGY)


@pytest.mark.parametrize("queues", [1, 2, 4, 64])
def test_queues_are_offered_and_counted(bench: MakeBench, queues: int) -> None:
    driver = bench(queues=queues).driver(queue_size=4)
    assert driver.has(BlockFeature.MQ) == (queues > 1)
    assert driver.config.num_queues == queues
    for queue in range(queues):
        driver.request(0, 0, 512, queue=queue)


@pytest.mark.parametrize(
    "feature", [BlockFeature.SIZE_MAX, BlockFeature.GEOMETRY, BlockFeature.SECURE_ERASE]
)
def test_what_is_not_implemented_is_not_offered(bench: MakeBench, feature: BlockFeature) -> None:
    assert not bench().driver().has(feature)


@pytest.mark.parametrize("serial", ["", "SN-1", "x" * 20])
def test_the_serial_is_the_identity(bench: MakeBench, serial: str) -> None:
    assert bench(serial=serial).driver().identity() == serial


@pytest.mark.parametrize("disk_id, serial", [(b"\xab" * 16, "ab" * 10), (None, "6472697665626179")])
def test_without_a_serial_the_identity_is_the_disks(
    bench: MakeBench, disk_id: bytes | None, serial: str
) -> None:
    disk = RamDisk(1 << 20)
    disk.disk_id = disk_id
    assert bench(disk).driver().identity() == serial


@pytest.mark.parametrize(
    "options",
    [
        {"queues": 0},
        {"queues": 65},
        {"queue_size": 3},
        {"queue_size": 2},
        {"queue_size": 2048},
        {"serial": "x" * 21},
        {"serial": "é" * 11},
    ],
    ids=str,
)
def test_a_device_that_cannot_be_is_not_made(bench: MakeBench, options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        bench(**options)


# -- a driver of another age -----------------------------------------------------------------------


def test_a_driver_without_version_1_is_served(bench: MakeBench) -> None:
    """xv6 never looks at the upper word of the features (seed 003), and resets as it likes."""
    b = bench()
    with b.survives():
        for _ in range(3):
            driver = b.driver(features=SPLIT & ~VERSION_1, queue_size=8)
            driver.write(3, b"\x33" * 1024)
            assert driver.read(3, 1024) == b"\x33" * 1024
            driver.reset()


def test_a_driver_that_picks_a_feature_out_of_thin_air_is_told(bench: MakeBench) -> None:
    b = bench()
    offered = b.device.features
    with b.survives(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegisterDriver, "_offered", lambda _: offered | 1 << BlockFeature.ZONED)
        with pytest.raises(DeviceError, match="refuses the features"):
            b.driver()
        patch.undo()


# -- resize ----------------------------------------------------------------------------------------


def test_a_resize_under_way_is_seen_whole(bench: MakeBench) -> None:
    """A driver that read half of the old capacity sees that the generation has changed."""
    b = bench()
    driver = b.driver()
    generation = driver.get("ConfigGeneration")
    for sectors in (1 << 33, 16, 4096):
        run(b.disk.resize(sectors))
        assert driver.get("ConfigGeneration") != generation
        generation = driver.get("ConfigGeneration")
        assert driver.config.capacity == sectors
        assert driver.get("InterruptStatus") & 2
        driver.acknowledge()


def test_a_request_issued_before_a_shrink_fails_after_it(bench: MakeBench) -> None:
    puppet = PuppetDisk(RamDisk(1 << 20), holds=lambda name, sector, count: name == "read")
    b = bench(puppet)
    guest = b.guest(features=SPLIT)
    last, first = guest.request(0, 2047, room=512), guest.request(0, 0, room=512)
    guest.driver.ring().add(last.chain)
    guest.send(first.chain)
    run(puppet.below.resize(8))
    puppet.complete_all()
    b.finish()
    assert [guest.status(last), guest.status(first)] == [IOERR, OK]


def test_a_driver_that_is_not_there_yet_gets_no_interrupt(bench: MakeBench) -> None:
    b = bench()
    run(b.disk.resize(8))
    assert not b.levels
    assert b.driver().config.capacity == 8
