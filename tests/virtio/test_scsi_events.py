"""What the SCSI host tells its driver unasked (virtio 1.2 section 5.6.6.3)."""

from __future__ import annotations

import pytest

from drivebay.controllers.virtio.registers import RingFeature
from drivebay.controllers.virtio.scsi_registers import ScsiEvent, ScsiFeature
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_ring import Buffer
from drivebay.drivers.virtio_scsi import VirtioScsi
from drivebay.platform.engine import Engine
from drivebay.platform.virtio import QueueSetup, RingAddresses
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.dvd import Dvd
from drivebay.suspend import run

from .scsi_bench import ScsiBench, make, sense_of

NO_EVENT, TRANSPORT_RESET, PARAM_CHANGE = 0, 1, 3
RESCAN, REMOVED = 1, 2
MISSED = 1 << 31
MOST_EVENTS = 64


@pytest.fixture
def bench(engine: Engine) -> ScsiBench:
    return make(engine)


def lun(text: str) -> bytes:
    return bytes.fromhex(text).ljust(8, b"\0")


def added(bench: ScsiBench, number: int) -> None:
    bench.target.add(number, ScsiDisk(RamDisk(4096)))


def test_hot_plug_is_told(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    driver.leave_room(4)
    added(bench, 2)
    bench.target.remove(300)
    assert list(driver.events()) == [
        ScsiEvent(TRANSPORT_RESET, lun("01000002"), RESCAN),
        ScsiEvent(TRANSPORT_RESET, lun("0100412c"), REMOVED),
    ]
    assert sense_of(driver.command(0, bytes(6))) == (6, 0x3F, 0x0E)
    assert sense_of(driver.command(2, bytes(6))) == (6, 0x29, 0)
    assert sense_of(driver.command(300, bytes(6))) == (5, 0x25, 0)


def test_a_new_size_and_another_medium_are_told(bench: ScsiBench) -> None:
    driver = bench.driver()
    driver.leave_room(4)
    run(bench.puppet.resize(1024))
    assert list(driver.events()) == [ScsiEvent(PARAM_CHANGE, lun("0100"), 0x2A | 9 << 8)]
    assert sense_of(driver.command(0, bytes(6))) == (6, 0x2A, 9)
    drive = bench.target.unit(300)
    assert isinstance(drive, Dvd)
    drive.insert(RamDisk(4096))
    assert list(driver.events()) == [ScsiEvent(PARAM_CHANGE, lun("0100412c"), 0x28)]
    gone = bench.target.remove(0)
    assert isinstance(gone, ScsiDisk)
    list(driver.events())
    run(bench.puppet.resize(2048))
    assert not list(driver.events())


def test_an_event_waits_for_a_buffer(bench: ScsiBench, features: int) -> None:
    """The driver kicks only when it is asked to."""
    driver = bench.driver(features=features)
    for number in range(2, 12):
        added(bench, number)
    for number in range(2, 12):
        driver.leave_room(1)
        assert [event.lun[3] for event in driver.events()] == [number]
    driver.leave_room(1)
    added(bench, 20)
    assert [event.lun[3] for event in driver.events()] == [20]
    added(bench, 21)
    driver.leave_room(1)
    assert [event.lun[3] for event in driver.events()] == [21]


def test_events_for_which_there_is_no_room_are_missed(bench: ScsiBench) -> None:
    driver = bench.driver()
    for number in range(2, 2 + MOST_EVENTS + 1):
        added(bench, number)
    driver.leave_room(MOST_EVENTS + 1)
    events = list(driver.events())
    assert len(events) == MOST_EVENTS
    assert [event.event for event in events[:2]] == [TRANSPORT_RESET | MISSED, TRANSPORT_RESET]
    added(bench, 200)
    assert [event.event for event in driver.events()] == [TRANSPORT_RESET]


@pytest.mark.parametrize("feature", [ScsiFeature.HOTPLUG, ScsiFeature.CHANGE])
def test_who_has_not_asked_is_not_told(bench: ScsiBench, feature: ScsiFeature) -> None:
    driver = bench.driver(features=~(1 << feature))
    driver.leave_room(4)
    added(bench, 2)
    run(bench.puppet.resize(1024))
    kinds = {ScsiFeature.HOTPLUG: PARAM_CHANGE, ScsiFeature.CHANGE: TRANSPORT_RESET}
    assert [event.event for event in driver.events()] == [kinds[feature]]


def test_a_new_driver_hears_nothing_of_before(bench: ScsiBench) -> None:
    bench.driver()
    added(bench, 2)
    driver = bench.driver()
    driver.leave_room(4)
    assert not list(driver.events())
    added(bench, 3)
    assert [event.lun[3] for event in driver.events()] == [3]


def test_buffers_for_events_stay_in_the_ring_over_a_stop(engine: Engine) -> None:
    """Whoever takes the ring over, here the same device, finds them: nothing of it is in flight."""
    bench = make(engine)
    driver = bench.driver(features=~(1 << RingFeature.RING_PACKED))
    driver.leave_room(2)
    setup = bench.device._runners[1].queue
    positions: list[int] = []
    bench.device.stop_queue(1, positions.append, cancel=False)
    assert positions == [0]
    added(bench, 2)  # meanwhile
    addresses = RingAddresses(*setup.addresses)
    again = QueueSetup(setup.memory, setup.size, addresses, setup.signal, position=positions[0])
    bench.device.start_queue(1, again)
    added(bench, 3)
    assert [event.lun[3] for event in driver.events()] == [2, 3]


def broken(driver: VirtioScsi, buffer: Buffer) -> None:
    driver.ring(1).add([buffer])
    driver.notify(1)


def test_hostile_a_buffer_too_small_for_an_event(bench: ScsiBench, features: int) -> None:
    driver = bench.driver(features=features)
    added(bench, 2)
    broken(driver, Buffer(driver.arena.take(16), ScsiEvent.size - 1, True))
    assert bench.needs_reset
    arena = Arena(bench.memory, bench.memory.regions[0].address, 1 << 20)
    assert bench.driver(arena).ask(0, bytes([0x12, 0, 0, 0, 36, 0]), room=36)
    assert not bench.needs_reset


def test_hostile_buffers_for_events_that_are_no_memory(bench: ScsiBench) -> None:
    driver = bench.driver()
    broken(driver, Buffer(1 << 60, 16, True))
    assert not bench.needs_reset  # it is not looked at before there is an event
    added(bench, 2)
    assert bench.needs_reset


def test_a_full_event_queue_is_served_to_its_end(bench: ScsiBench) -> None:
    driver = bench.driver(queue_size=8)
    driver.leave_room(8)
    for number in range(2, 40):
        added(bench, number)
        assert [event.lun[3] for event in driver.events()] == [number]
        driver.leave_room(1)


@pytest.mark.parametrize("how", ["held", "asleep"])
def test_a_buffer_is_no_request(bench: ScsiBench, features: int, how: str) -> None:
    """What takes up work again, after a hold or a new layout of memory, leaves buffers that no
    event wants.
    """
    driver = bench.driver(features=features)
    driver.leave_room(2)
    if how == "held":
        bench.device.hold(True)
        bench.device.hold(False)
    else:
        for runner in bench.device._runners.values():
            runner._asleep = True
        bench.device.remap()
    added(bench, 2)
    assert [event.lun[3] for event in driver.events()] == [2]
    assert driver.command(0, bytes(6)).status == 2  # it tells of the other unit
