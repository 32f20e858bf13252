"""A function's state is taken up by another, while the guest's memory stays as it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.controllers.virtio.scsi import ScsiDevice
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.virtio_blk import VirtioBlkPci
from drivebay.drivers.virtio_scsi import VirtioScsiPci
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from drivebay.testing.puppet import PuppetDisk
from tests.ide.support import filled, noise

from .bench import AT, MESSAGES, RAM_SIZE, RAM_START, RINGS, SPLIT, PciSlot

MIB = 1 << 20


def block(disk: Disk, memory: GuestMemory, engine: Engine, **options: Any) -> PciSlot:
    return PciSlot(VirtioPci(BlockDevice(disk, engine, packed=True, **options), memory))


def moved(state: Any) -> Any:
    """As it comes out of a file."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state))


def go_on(driver: Any, slot: PciSlot) -> None:
    """The driver finds another function where the first one was."""
    driver._ports, driver._mmio = slot.ports, slot.space


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory.of_size(RAM_SIZE, RAM_START)


@pytest.mark.parametrize("features", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("messages", [(), MESSAGES], ids=["line", "messages"])
def test_a_driver_goes_on_with_another_function(
    engine: Engine, memory: GuestMemory, features: int, messages: Any
) -> None:
    disk, arena = filled(MIB, 1), Arena(memory, RAM_START, RAM_SIZE)
    first = block(disk, memory, engine)
    driver = VirtioBlkPci(
        first.ports,
        first.space,
        AT,
        arena,
        poll=lambda: engine.turn(0),
        features=features,
        queue_size=4,
        messages=messages,
    )
    for n in range(5):  # more than a lap
        driver.write(n, noise(512, n))
    first.function.device.hold(True)  # type: ignore[attr-defined]
    pending = [driver.submit(0, n, 512) for n in range(1)]
    engine.turn(0)
    second = block(disk, memory, engine)
    second.function.device.hold(True)  # type: ignore[attr-defined]
    second.function.restore(moved(first.function.save()))
    assert moved(second.function.save()) == moved(first.function.save())
    go_on(driver, second)
    second.function.device.hold(False)  # type: ignore[attr-defined]
    assert [driver.wait(each) for each in pending] == [0]
    for n in range(5):
        assert driver.read(n, 512) == noise(512, n)
    assert bool(second.messages) == bool(messages)
    assert not first.function.device._runners[0]._tasks  # type: ignore[attr-defined]


def test_a_moment_comes_again(engine: Engine, memory: GuestMemory) -> None:
    """In the same function, with the memory of then."""
    arena, slot = Arena(memory, RAM_START, RAM_SIZE), block(filled(MIB, 1), memory, engine)
    ports, space = slot.ports, slot.space
    driver = VirtioBlkPci(ports, space, AT, arena, poll=lambda: engine.turn(0), features=SPLIT)
    driver.write(1, noise(512, 1))
    ram = memory.view(RAM_START, RAM_SIZE)
    then, state = bytes(ram), moved(slot.function.save())
    driver.set("Status", 0)
    assert not driver.status
    ram[:] = then
    slot.function.restore(state)
    assert driver.status.DRIVER_OK
    assert driver.read(1, 512) == noise(512, 1)


def test_scsi(engine: Engine, memory: GuestMemory) -> None:
    """With the sizes that the driver has chosen."""

    def slot() -> PciSlot:
        target = Target(engine)
        target.add(0, ScsiDisk(disk))
        return PciSlot(VirtioPci(ScsiDevice(target, engine), memory))

    disk, arena = filled(MIB, 1), Arena(memory, RAM_START, RAM_SIZE)
    first = slot()
    driver = VirtioScsiPci(first.ports, first.space, AT, arena, poll=lambda: engine.turn(0))
    driver.choose_sizes(48, 40)
    driver.leave_room()
    driver.command(0, bytes(6))
    second = slot()
    second.function.restore(moved(first.function.save()))
    go_on(driver, second)
    assert (driver.config.sense_size, driver.config.cdb_size) == (48, 40)
    driver.command(0, bytes(6))
    assert len(driver.ask(0, bytes([0x12, 0, 0, 0, 36, 0]), room=36)) == 36


def test_states_that_do_not_fit(engine: Engine, memory: GuestMemory) -> None:
    slot = block(filled(MIB, 1), memory, engine)
    state = moved(slot.function.save())
    with pytest.raises(ValueError, match="other queues"):
        block(filled(MIB, 1), memory, engine, queues=2).function.transport.restore(
            state["transport"]
        )
    with pytest.raises(ValueError, match="other queues"):
        block(filled(MIB, 1), memory, engine, queue_size=16).function.restore(state)
    state["transport"]["features"] = 1 << 60
    with pytest.raises(ValueError, match="other features"):
        slot.function.restore(state)


def test_nothing_may_be_under_way(engine: Engine, memory: GuestMemory) -> None:
    puppet = PuppetDisk(filled(MIB, 1), lambda name, _sector, _count: name == "read")
    arena, slot = Arena(memory, RAM_START, RAM_SIZE), block(puppet, memory, engine)
    ports, space = slot.ports, slot.space
    driver = VirtioBlkPci(ports, space, AT, arena, poll=lambda: engine.turn(0), features=SPLIT)
    state = moved(slot.function.save())
    driver.submit(0, 0, 512)
    engine.turn(0)
    device: Any = slot.function.device
    assert not device.at_rest
    with pytest.raises(ValueError, match="under way"):
        slot.function.restore(state)
    puppet.held[0].complete()
    assert engine.run_until(lambda: device.at_rest)
    slot.function.restore(state)
