"""The NVMe function over vfio-user, worked by our own driver; by MSI-X, and moved under load."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivebay.controllers.nvme import Nvme
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme import NvmeDriver
from drivebay.hosts.listening import listen
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import Irq, MigrationState
from drivebay.hosts.vfio_user.messages import Region as RegionIndex
from drivebay.hosts.vfio_user.server import VfioUserServer
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.testing import PuppetDisk
from drivebay.testing.vfio_user import Monitor

RAM = 1 << 20
BUFFER = 1 << 19


class Bar0:
    """BAR0 as a monitor reaches it."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def read(self, address: int, width: int) -> int:
        return self.monitor.read(0, address, width)

    def write(self, address: int, width: int, value: int) -> None:
        self.monitor.write(0, address, width, value)


class Machine:
    """A served NVMe function with one disk that a test holds in its hand."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.path = engine, str(folder / "nvme.sock")
        self.puppet = PuppetDisk(RamDisk(1 << 20), lambda *_: False)
        self.memory = ClientMemory()
        self.nvme = Nvme(self.memory, engine, queues=2)
        self.nvme.add(1, self.puppet)
        self.server = VfioUserServer(self.nvme, self.memory, engine, listen(self.path))

    def turn(self) -> None:
        self.engine.turn(0.001)

    def monitor(self) -> Monitor:
        return Monitor(self.path, poll=self.turn, start=False)

    def driver(self, monitor: Monitor) -> NvmeDriver:
        monitor.negotiate()
        region = monitor.ram.region
        monitor.dma_map(RAM, region.length, region.mmap_offset)
        monitor.write(RegionIndex.CONFIG, 4, 2, 6)
        ram = monitor.memory.view(region.guest_address, region.length)
        arena = Arena(GuestMemory([Region(RAM, ram)]), RAM, region.length)
        return NvmeDriver(Bar0(monitor), 0, arena, poll=self.turn, buffer=BUFFER)


@pytest.fixture
def machine(engine: Engine, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(engine, tmp_path)
    yield machine
    machine.server.close()


@pytest.mark.parametrize("in_memory", [False, True])
def test_blocks_are_written_and_read(machine: Machine, in_memory: bool) -> None:
    data = bytes(range(256)) * 64
    with machine.monitor() as monitor:
        driver = machine.driver(monitor)
        if in_memory:
            driver.use_doorbell_buffers()
        disk = driver.namespace(1)
        disk.write(3, data)
        assert disk.read(3, 32) == data


def test_a_batch_is_one_message(machine: Machine) -> None:
    vectors = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
    with machine.monitor() as monitor:
        driver = machine.driver(monitor)
        monitor.write(RegionIndex.CONFIG, machine.nvme.msix.offset + 2, 2, 0x8000)
        monitor.wire(Irq.MSIX, vectors)
        disk = driver.namespace(1)
        ids = [disk.prepare_read(slot, slot, 1) for slot in range(16)]
        disk.queue.ring()
        disk.finish(ids)
        assert os.eventfd_read(vectors[1]) == 1
    for vector in vectors:
        os.close(vector)


def test_commands_under_way_go_on_in_another_process(
    machine: Machine, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Machine(engine, tmp_path / "other")
    with machine.monitor() as monitor, other.monitor() as second:
        driver = machine.driver(monitor)
        disk = driver.namespace(1)
        machine.puppet.holds = lambda *_: True
        ids = [disk.prepare_write(slot, slot, bytes([slot]) * 512) for slot in range(8)]
        disk.queue.ring()
        assert engine.run_until(lambda: len(machine.puppet.held) == 8)
        monitor.go(MigrationState.STOP_COPY)
        state = monitor.take_state()
        second.negotiate()
        region = monitor.ram.region
        second.dma_map(RAM, region.length, second.ram.region.mmap_offset)
        there = second.memory.view(second.ram.region.guest_address, region.length)
        there[:] = monitor.memory.view(region.guest_address, region.length)
        second.go(MigrationState.RESUMING)
        second.give_state(state)
        second.go(MigrationState.RUNNING)
        arena = Arena(GuestMemory([Region(RAM, there)]), RAM, region.length)
        driver.mmio, driver.memory = Bar0(second), arena.memory
        disk.queue.memory = arena.memory
        disk.finish(ids)
        assert disk.read(3, 1) == b"\3" * 512
    other.server.close()
